// What was sent for an answer and what came back, and the request as a program.

import { html, useState } from './libraries.js';
import { Code, CopyButton } from './parts.js';
import { serverUrl } from './server.js';
import { curl, node as nodeProgram, python } from './snippets.js';

const PROGRAMS = [
  { name: 'curl', language: 'bash', write: curl },
  { name: 'Python', language: 'python', write: python },
  { name: 'Node', language: 'javascript', write: nodeProgram },
];
const MAX_SHOWN = 200; // events of the stream

export const Exchange = ({ state }) => {
  const answer = state.shown === null ? null : state.tree.nodes[state.shown];
  if (!answer?.request) {
    return html`
      <p class="intro">
        Nothing was asked yet. Here you will see each request as it is sent, the answer as it comes, and the same as a
        program.
      </p>`;
  }
  const { raw, request } = answer;
  const text = raw.events.map((data) => `data: ${data}\n\n`).join('');
  const shown = raw.events.slice(0, MAX_SHOWN).map((data) => `data: ${data}`).join('\n\n');
  const hidden = raw.events.length - MAX_SHOWN + raw.more;
  return html`
    <${Program} body=${request} needsKey=${state.key !== ''} />
    <div class="row between"><h2>Request</h2><${CopyButton} text=${() => JSON.stringify(request, null, 2)}
      label="Copy request" /></div>
    <p class="hint mono">POST ${serverUrl()}/v1/chat/completions</p>
    <${Code} text=${JSON.stringify(request, null, 2)} language="json" label="Request" />
    <div class="row between"><h2>Response</h2><${CopyButton} text=${text} label="Copy response" /></div>
    ${raw.id && html`<p class="hint mono">x-request-id: ${raw.id}</p>`}
    ${answer.problem && html`<p class="wrong">${answer.problem.status || 'No answer'}: ${answer.problem.message}</p>`}
    ${raw.events.length > 0 && html`<pre class="code" tabindex="0" role="region" aria-label="Response">${shown}</pre>`}
    ${hidden > 0 && html`<p class="hint">and ${hidden} more events</p>`}`;
};

const Program = ({ body, needsKey }) => {
  const [chosen, setChosen] = useState('curl');
  const { name, language, write } = PROGRAMS.find((one) => one.name === chosen);
  const text = write(serverUrl(), body, needsKey);
  return html`
    <div class="row between">
      <div class="segments" role="group" aria-label="The request as a program">
        ${PROGRAMS.map((one) => html`<button type="button" aria-pressed=${String(one.name === chosen)}
          onClick=${() => setChosen(one.name)}>${one.name}</button>`)}
      </div>
      <${CopyButton} text=${text} label="Copy as ${name}" plain=${true} />
    </div>
    <${Code} text=${text} language=${language} label="As ${name}" />
    ${needsKey && html`<p class="hint">The key is not written into it: set API_KEY.</p>`}`;
};
