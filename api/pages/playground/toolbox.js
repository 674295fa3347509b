// The tools that the model is told of. Nothing is run here: calls are shown in the conversation and answered by hand.

import { html } from './libraries.js';
import { CodeField, Icon, IconButton } from './parts.js';
import { aboutModel } from './sampling.js';
import { parseJson, schemaProblems } from './schema.js';

const EXAMPLE = JSON.stringify({
  name: 'get_weather',
  description: 'The weather of a city now.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
}, null, 2);
const MAX_NAME = 256;

// What is wrong with a tool's text; nothing where it is one.
export const toolProblems = (text) => {
  const { value, problem } = parseJson(text);
  if (problem) return [problem];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return ['A tool is an object with a name.'];
  const { name, parameters } = value;
  const isNamed = typeof name === 'string' && name.length > 0 && name.length <= MAX_NAME;
  const found = isNamed ? [] : [`name: a text of 1 to ${MAX_NAME} characters is needed.`];
  return parameters === undefined ? found : [...found, ...schemaProblems(parameters, 'parameters')];
};

const nameOf = (text) => parseJson(text).value?.name;

export const ToolBox = ({ state, actions }) => {
  const { tools } = state;
  const put = (values) => actions.setIn('tools', values);
  const putOne = (index, values) => put({
    list: tools.list.map((tool, place) => (place === index ? { ...tool, ...values } : tool)),
  });
  const offered = tools.list.filter(({ on }) => on).map(({ text }) => nameOf(text));
  const names = offered.filter((name) => typeof name === 'string');
  return html`
    <p class="intro">Tools are told to the model. Its calls appear in the conversation; you answer them by hand.</p>
    ${aboutModel(state)?.calls_tools === false && html`<p
      class="wrong">This server reads no calls from answers unless one is demanded.</p>`}
    ${tools.list.map((tool, index) => html`
      <section class="tool" aria-label="Tool ${index + 1}" key=${tool.id}>
        <div class="row between">
          <label class="check"><input type="checkbox" checked=${tool.on}
            onChange=${(event) => putOne(index, { on: event.target.checked })} /> Offer this tool</label>
          <${IconButton} icon="close" label="Remove tool ${index + 1}"
            onClick=${() => put({ list: tools.list.filter((other) => other !== tool) })} />
        </div>
        <${CodeField} id="tool-${tool.id}" label="Definition" rows="10" value=${tool.text}
          problems=${toolProblems(tool.text)} onInput=${(text) => putOne(index, { text })} />
      </section>`)}
    <p><button type="button" onClick=${() => put({ list: [...tools.list, newTool(tools.list)] })}><${Icon}
      name="plus" /> Add a tool</button></p>
    ${tools.list.length > 0 && html`
      <div class="field">
        <label for="tool-choice">The model</label>
        <select id="tool-choice" value=${tools.choice} onChange=${(event) => put({ choice: event.target.value })}>
          <option value="auto">may call them</option>
          <option value="required">must call one</option>
          <option value="none">may call none</option>
          ${names.map((name) => html`<option value=${name}>must call ${name}</option>`)}
        </select>
      </div>`}`;
};

const newTool = (list) => ({ id: Math.max(0, ...list.map(({ id }) => id)) + 1, on: true, text: EXAMPLE });
