// From what the page knows to the body of POST /v1/chat/completions. Pure: knows no element and no server.

import { readJson } from './schema.js';

export const TOP_LOGPROBS = 5;

// The numbers, named as the server spells them, with their ranges. Each counts as the model's default, and is not sent,
// until the user sets it.
export const NUMBERS = [
  { name: 'temperature', label: 'Temperature', least: 0, most: 2, step: 0.05, hint: '0 takes the likeliest token' },
  { name: 'top_p', label: 'Top p', least: 0.01, most: 1, step: 0.01, hint: 'Smallest set of tokens with this share' },
  { name: 'top_k', label: 'Top k', least: 0, most: 200, step: 1, hint: 'This many likeliest tokens; 0: all' },
  { name: 'min_p', label: 'Min p', least: 0, most: 1, step: 0.01, hint: 'Relative to the likeliest token' },
  {
    name: 'repetition_penalty', label: 'Repetition penalty', least: 0.5, most: 2, step: 0.01,
    hint: 'Over prompt and answer; 1: none',
  },
  {
    name: 'frequency_penalty', label: 'Frequency penalty', least: -2, most: 2, step: 0.05,
    hint: 'By count in the answer',
  },
  { name: 'presence_penalty', label: 'Presence penalty', least: -2, most: 2, step: 0.05, hint: 'Once per token' },
];

// The value that counts where the user sets none. `defaults` is a model's of /playground/about.
export const defaultOf = (name, defaults) => defaults?.[name] ?? 0;

const asMessages = (nodes) => nodes.map((node) => {
  if (node.role === 'tool') return { role: 'tool', tool_call_id: node.callId, content: node.content };
  if (node.role !== 'assistant') return { role: node.role, content: node.content };
  const calls = node.calls ?? [];
  return {
    role: 'assistant',
    content: calls.length > 0 && node.content === '' ? null : node.content,
    ...(calls.length > 0 && {
      tool_calls: calls.map((call) => ({
        id: call.id, type: 'function', function: { name: call.name, arguments: call.arguments },
      })),
    }),
  };
});

const outputFields = ({ kind, schema, regex, choices, grammar }) => {
  switch (kind) {
    case 'json_object': return { response_format: { type: 'json_object' } };
    case 'json_schema': return {
      response_format: {
        type: 'json_schema', json_schema: { name: 'answer', schema: readJson(schema), strict: true },
      },
    };
    case 'regex': return { structured_outputs: { regex } };
    case 'grammar': return { structured_outputs: { grammar } };
    case 'choice': return { structured_outputs: { choice: lines(choices) } };
    default: return {};
  }
};

export const lines = (text) => text.split('\n').map((line) => line.trim()).filter((line) => line !== '');

const toolFields = ({ on, list, choice }) => {
  const offered = list.filter((tool) => tool.on).map((tool) => ({ type: 'function', function: readJson(tool.text) }));
  if (!on || offered.length === 0) return {};
  const named = !['auto', 'none', 'required'].includes(choice);
  const exists = offered.some((tool) => tool.function.name === choice);
  if (named && !exists) return { tools: offered };
  return { tools: offered, tool_choice: named ? { type: 'function', function: { name: choice } } : choice };
};

// Numbers that the user set, the rest of the sampling fields included; strings such as the seed become numbers.
const samplingFields = (sampling) => {
  const fields = {};
  for (const { name } of NUMBERS) if (sampling[name] !== undefined) fields[name] = sampling[name];
  for (const name of ['max_tokens', 'seed']) if (sampling[name] !== undefined) fields[name] = sampling[name];
  if (sampling.effort !== '') fields.reasoning_effort = sampling.effort;
  const stop = lines(sampling.stop);
  if (stop.length > 0) fields.stop = stop;
  if (sampling.tokens) Object.assign(fields, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  return fields;
};

// The body that asks for what follows `nodes`. Throws SyntaxError where a schema or a tool is no JSON.
export const requestBody = (state, nodes) => ({
  model: state.model,
  messages: [
    ...(state.sampling.system.trim() === '' ? [] : [{ role: 'system', content: state.sampling.system }]),
    ...asMessages(nodes),
  ],
  ...samplingFields(state.sampling),
  ...outputFields(state.output),
  ...toolFields(state.tools),
  stream: true,
  stream_options: { include_usage: true },
});
