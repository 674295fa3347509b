// One answer: what is asked, and what its stream's chunks make of it. Knows the wire's shapes, but no element.

import { ask, events, Refused } from './server.js';

const LEAST_SPAN_S = 0.05; // below, chunks came in one piece, and their speed is not the model's
const MAX_KEPT_EVENTS = 5000; // of the raw stream; beyond, only their number is kept

// What an answer holds before anything came. Times are milliseconds of `performance.now()`.
export const newAnswer = (body) => ({
  role: 'assistant',
  status: 'waiting', // then streaming; in the end done, stopped or failed
  content: '',
  reasoning: '',
  calls: [], // { id, name, arguments }
  tokens: [], // { token, bytes, logprob, top_logprobs }
  usage: null,
  finish: null,
  problem: null, // { status, message, retryAfterS }
  times: { sent: performance.now(), first: null, last: null },
  request: body,
  raw: { id: null, events: [], more: 0 },
});

// Asks and follows the stream. `tell(values)` is called with what is new of the answer, the last time with its end.
// Never throws: whatever happens is in the answer.
export const follow = async (body, { key, signal, tell }) => {
  const answer = newAnswer(body);
  const say = (values) => tell(Object.assign(answer, values));
  try {
    const response = await ask('v1/chat/completions', { key, body, signal });
    answer.raw.id = response.headers.get('x-request-id');
    say({ status: 'streaming' });
    for await (const data of events(response)) {
      if (answer.raw.events.length < MAX_KEPT_EVENTS) answer.raw.events.push(data);
      else answer.raw.more += 1;
      if (data === '[DONE]') break;
      take(answer, JSON.parse(data));
      say({});
    }
    if (answer.finish === null) throw new Refused(0, 'The connection broke before the answer was whole.');
    say({ status: 'done' });
  } catch (error) {
    if (error.name === 'AbortError') say({ status: 'stopped' });
    else if (error instanceof Refused) say({ status: 'failed', problem: problemOf(error) });
    else say({ status: 'failed', problem: { status: 0, message: `The answer could not be read: ${error.message}` } });
  }
};

const problemOf = ({ status, message, retryAfterS }) => ({ status, message, retryAfterS });

// Adds one chunk to the answer.
const take = (answer, chunk) => {
  if (chunk.error) throw new Refused(chunk.error.code ?? 500, chunk.error.message ?? 'The server ended the answer.');
  if (chunk.usage) answer.usage = chunk.usage;
  const [choice] = chunk.choices ?? [];
  if (choice === undefined) return;
  const { delta } = choice;
  const isNews = Boolean(delta.content || delta.reasoning_content || delta.tool_calls);
  if (isNews) {
    answer.times.last = performance.now();
    answer.times.first ??= answer.times.last;
  }
  answer.content += delta.content ?? '';
  answer.reasoning += delta.reasoning_content ?? '';
  for (const part of delta.tool_calls ?? []) takeCall(answer.calls, part);
  answer.tokens.push(...(choice.logprobs?.content ?? []));
  answer.finish = choice.finish_reason ?? answer.finish;
};

const takeCall = (calls, part) => {
  const call = calls[part.index] ??= { id: '', name: '', arguments: '' };
  call.id = part.id ?? call.id;
  call.name += part.function?.name ?? '';
  call.arguments += part.function?.arguments ?? '';
};

// What is said under an answer: times in milliseconds, null where there is nothing to tell.
export const numbersOf = ({ times, usage, tokens }) => {
  const ttftMs = times.first === null ? null : times.first - times.sent;
  const generated = usage?.completion_tokens ?? (tokens.length || null);
  const spanS = times.first === null ? 0 : (times.last - times.first) / 1000;
  return {
    ttftMs,
    perSecond: generated > 1 && spanS >= LEAST_SPAN_S ? (generated - 1) / spanS : null,
    prompt: usage?.prompt_tokens ?? null,
    cached: usage?.prompt_tokens_details?.cached_tokens ?? null,
    generated,
  };
};
