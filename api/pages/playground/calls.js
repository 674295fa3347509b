// Calls of tools in an answer, and the fields to answer them by hand.

import { html, useState } from './libraries.js';
import { Code } from './parts.js';
import { parseJson } from './schema.js';

const pretty = (text) => {
  const { value, problem } = parseJson(text);
  return problem ? text : JSON.stringify(value, null, 2);
};

export const Calls = ({ node, isRunning, state, actions }) => {
  const [results, setResults] = useState([]);
  const isAnswered = node.children.length > 0 && node.active < node.children.length;
  const canAnswer = !isRunning && node.status === 'done' && !isAnswered;
  const put = (index, text) => setResults(
    node.calls.map((_, place) => (place === index ? text : results[place] ?? '')),
  );
  const send = (event) => {
    event.preventDefault();
    actions.giveResults(node.id, results);
    setResults([]);
  };
  return html`
    <form class="calls" onSubmit=${send}>
      ${node.calls.map((call, index) => html`
        <section class="call" aria-label="Call of ${call.name}">
          <p class="name">calls <code>${call.name}</code></p>
          <${Code} text=${pretty(call.arguments)} language="json" label="Arguments of ${call.name}" />
          ${canAnswer && html`
            <label for="result-${node.id}-${index}">What ${call.name} gives back</label>
            <textarea id="result-${node.id}-${index}" class="mono" rows="3" value=${results[index] ?? ''}
              onInput=${(event) => put(index, event.target.value)}></textarea>`}
        </section>`)}
      ${canAnswer && html`<button type="submit" class="main"
        disabled=${state.running !== null}>Send ${node.calls.length === 1 ? 'the result' : 'the results'}</button>`}
    </form>`;
};
