// One message: what it says, the numbers under it, and what can be done with it.

import { numbersOf } from './answer.js';
import { Calls } from './calls.js';
import { branchOf } from './conversation.js';
import { html, useEffect, useRef, useState } from './libraries.js';
import { Code, CopyButton, duration, IconButton, Markdown, number, shortName } from './parts.js';
import { fit } from './schema.js';
import { Tokens } from './tokens.js';

const WHO = { user: 'You', assistant: 'Model', tool: 'Result' };

export const Message = ({ node, state, actions }) => {
  const [isEdited, setEdited] = useState(false);
  const [showsTokens, setShowsTokens] = useState(false);
  const isRunning = state.running === node.id;
  return html`
    <li class="message ${node.role}" data-status=${node.status}>
      <article aria-label=${WHO[node.role]}>
        <header class="who"><${Who} node=${node} /></header>
        ${isEdited
          ? html`<${Editor} node=${node}
            onDone=${(text) => { setEdited(false); if (text !== null) actions.edit(node.id, text); }} />`
          : html`<${Body} node=${node} showsTokens=${showsTokens} isRunning=${isRunning} state=${state}
            actions=${actions} />`}
        ${node.problem && html`<${Problem} node=${node} actions=${actions} isBusy=${state.running !== null} />`}
        <footer>
          <${Branches} node=${node} tree=${state.tree} actions=${actions} />
          ${!isRunning && !isEdited && html`<${Tools}
            ...${{ node, state, actions, setEdited, showsTokens, setShowsTokens }} />`}
          ${node.request && html`<${Numbers} node=${node} />`}
        </footer>
      </article>
    </li>`;
};

const Who = ({ node }) => {
  if (node.role === 'tool') return html`${WHO.tool} of <code>${node.name}</code>`;
  return node.request ? shortName(node.request.model) : WHO[node.role];
};

const Body = ({ node, showsTokens, isRunning, state, actions }) => {
  if (node.role === 'user') return html`<div class="text">${node.content}</div>`;
  if (node.role === 'tool') return html`<pre class="text mono" tabindex="0">${node.content}</pre>`;
  if (showsTokens) return html`<${Tokens} tokens=${node.tokens} />`;
  return html`
    ${node.reasoning && html`<details class="reasoning" open=${node.content === ''}><summary>Reasoning</summary>
      <${Markdown} text=${node.reasoning} /></details>`}
    ${isRunning && node.content === '' && node.calls.length === 0 && !node.reasoning && html`<div class="waiting"
      role="img" aria-label="Waiting for the first token"><i></i><i></i><i></i></div>`}
    <${Content} node=${node} isRunning=${isRunning} />
    ${(node.calls?.length ?? 0) > 0 && html`<${Calls} node=${node} isRunning=${isRunning} state=${state}
      actions=${actions} />`}`;
};

// An answer that was held to a form is shown as what it is; everything else as Markdown.
const Content = ({ node, isRunning }) => {
  if (node.content === '') return null;
  const form = node.request?.response_format;
  if (form === undefined || node.role !== 'assistant') return html`<${Markdown} text=${node.content} />`;
  const { isWhole, isDeep, value, problems } = fit(node.content, form.json_schema?.schema ?? true);
  const whole = problems[0] ?? (form.json_schema ? 'Fits the schema' : 'Valid JSON');
  const verdict = isWhole ? whole : isDeep ? 'Nested too deeply to be checked here' : 'Not whole JSON';
  return html`
    <${Code} text=${isWhole ? JSON.stringify(value, null, 2) : node.content} language="json" label="Answer as JSON" />
    ${!isRunning && html`<p class="verdict ${isWhole && problems.length === 0 ? 'right' : 'wrong'}">${verdict}</p>`}`;
};

const TROUBLES = {
  0: 'Connection lost', 429: 'The server is busy', 500: 'The model failed', 503: 'The model does not answer',
};

const Problem = ({ node, actions, isBusy }) => {
  const [left, setLeft] = useState(Math.ceil(node.problem.retryAfterS ?? 0));
  useEffect(() => {
    if (left <= 0) return undefined;
    const timer = setTimeout(() => setLeft(left - 1), 1000);
    return () => clearTimeout(timer);
  }, [left]);
  const { status } = node.problem;
  const title = TROUBLES[status] ?? `Refused (${status})`;
  return html`
    <div class="problem" role="alert">
      <p><strong>${title}</strong></p>
      <p>${node.problem.message}</p>
      <button type="button" disabled=${isBusy || left > 0} onClick=${() => actions.retry(node.id)}>
        ${left > 0 ? `Try again in ${left} s` : 'Try again'}
      </button>
    </div>`;
};

const Tools = ({ node, state, actions, setEdited, showsTokens, setShowsTokens }) => {
  const isBusy = state.running !== null;
  const isAnswer = node.role === 'assistant';
  return html`
    <div class="tools">
      ${isAnswer && html`<${IconButton} icon="retry" label="Answer again" disabled=${isBusy}
        onClick=${() => actions.retry(node.id)} />`}
      ${node.role !== 'tool' && html`<${IconButton} icon="edit" label="Edit" disabled=${isBusy}
        onClick=${() => setEdited(true)} />`}
      <${CopyButton} text=${node.content} label="Copy text" />
      ${isAnswer && html`<${IconButton} icon="branch" label="Branch from here" disabled=${isBusy}
        onClick=${() => actions.fork(node.id)} />`}
      ${isAnswer && node.tokens?.length > 0 && html`
        <${IconButton} icon="tokens" label="Tokens" aria-pressed=${showsTokens}
          onClick=${() => setShowsTokens(!showsTokens)} />`}
      ${node.request && html`
        <${IconButton} icon="code" label="Request and response"
          onClick=${() => actions.set({ shown: node.id, panel: 'exchange', panelOpen: true })} />`}
    </div>`;
};

const Branches = ({ node, tree, actions }) => {
  const { place, count } = branchOf(tree, node.id);
  if (count < 2) return null;
  return html`
    <div class="branches" role="group" aria-label="Branches">
      <${IconButton} icon="left" label="Branch before" disabled=${place === 1}
        onClick=${() => actions.step(node.id, -1)} />
      <span>${place}/${count}</span>
      <${IconButton} icon="right" label="Next branch" disabled=${place === count}
        onClick=${() => actions.step(node.id, 1)} />
    </div>`;
};

const ENDS = { length: 'cut at its length', stopped: 'stopped' };

const Numbers = ({ node }) => {
  const { ttftMs, perSecond, prompt, cached, generated } = numbersOf(node);
  const end = node.status === 'stopped' ? ENDS.stopped : ENDS[node.finish];
  return html`
    <dl class="numbers">
      ${ttftMs !== null && html`<div><dt title="Time to the first token, as this browser saw it">first token</dt><dd>
        ${duration(ttftMs)}</dd></div>`}
      ${perSecond !== null && html`<div><dt class="unseen">speed</dt><dd>
        ${number(perSecond, perSecond < 100 ? 1 : 0)} tokens/s</dd></div>`}
      ${prompt !== null && html`<div><dt>prompt</dt><dd>${number(prompt)}${cached !== null && html` <span
        class="soft">(${number(cached)} cached)</span>`}</dd></div>`}
      ${generated !== null && html`<div><dt>answer</dt><dd>${number(generated)}</dd></div>`}
      ${end && html`<div><dt class="unseen">end</dt><dd>${end}</dd></div>`}
    </dl>`;
};

const Editor = ({ node, onDone }) => {
  const [text, setText] = useState(node.content);
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const press = (event) => {
    if (event.key === 'Escape') onDone(null);
    else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) onDone(text);
  };
  return html`
    <div class="editor">
      <textarea aria-label="Message text" ref=${field} value=${text} onInput=${(event) => setText(event.target.value)}
        onKeyDown=${press}></textarea>
      <div class="row">
        <button type="button" class="main" disabled=${text.trim() === ''} onClick=${() => onDone(text)}>
          ${node.role === 'user' ? 'Send as a branch' : 'Keep as a branch'}</button>
        <button type="button" onClick=${() => onDone(null)}>Cancel</button>
      </div>
    </div>`;
};
