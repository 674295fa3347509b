// What form answers must have: free text, JSON, JSON of a schema, a pattern, one of some texts.

import { html, useState } from './libraries.js';
import { CodeField } from './parts.js';
import { lines } from './request.js';
import { parseJson, schemaProblems } from './schema.js';

const KINDS = [
  { id: 'text', name: 'Text' },
  { id: 'json_object', name: 'Any JSON object' },
  { id: 'json_schema', name: 'JSON of a schema' },
  { id: 'regex', name: 'A pattern' },
  { id: 'grammar', name: 'A grammar (Lark)' },
  { id: 'choice', name: 'One of some texts' },
];
const EXAMPLE = JSON.stringify({
  type: 'object',
  properties: {
    city: { type: 'string', maxLength: 40 },
    country: { type: 'string', maxLength: 40 },
    population: { type: 'integer', minimum: 0 },
  },
  required: ['city', 'country', 'population'],
  additionalProperties: false,
}, null, 2);

// What stands in the way of a schema's text; nothing where it is a schema.
export const schemaTextProblems = (text) => {
  const { value, problem } = parseJson(text);
  return problem ? [problem] : schemaProblems(value);
};

export const Output = ({ state, actions }) => {
  const { output } = state;
  const put = (values) => actions.setIn('output', values);
  return html`
    <fieldset class="choices">
      <legend>Answers must be</legend>
      ${KINDS.map(({ id, name }) => html`
        <label class="check"><input type="radio" name="kind" value=${id} checked=${output.kind === id}
          onChange=${() => put({ kind: id })} /> ${name}</label>`)}
    </fieldset>
    ${output.kind === 'json_schema' && html`<${SchemaEditor} ...${{ output, put }} />`}
    ${output.kind === 'regex' && html`
      <${CodeField} id="regex" label="Pattern" rows="3" value=${output.regex} onInput=${(regex) => put({ regex })}
        hint="The whole answer must match, such as [A-Z]{3}-[0-9]+" />`}
    ${output.kind === 'grammar' && html`
      <${CodeField} id="grammar" label="Grammar" rows="8" value=${output.grammar}
        onInput=${(grammar) => put({ grammar })} hint='Such as start: "yes" | "no"' />`}
    ${output.kind === 'choice' && html`
      <${CodeField} id="choices" label="Texts, one a line" rows="5" value=${output.choices}
        onInput=${(choices) => put({ choices })}
        problems=${lines(output.choices).length === 0 ? ['At least one is needed.'] : []} />`}
    ${output.kind !== 'text' && html`<${TryFormat} key=${output.kind} output=${output} actions=${actions} />`}`;
};

const SchemaEditor = ({ output, put }) => {
  const isEmpty = output.schema.trim() === '';
  const problems = isEmpty ? [] : schemaTextProblems(output.schema);
  const tidy = () => put({ schema: JSON.stringify(JSON.parse(output.schema), null, 2) });
  return html`
    <${CodeField} id="schema" label="JSON schema" rows="16" value=${output.schema} problems=${problems}
      onInput=${(schema) => put({ schema })}
        hint=${isEmpty ? 'Write one, or begin with the example.' : 'This is a schema.'} />
    <div class="row">
      <button type="button" onClick=${() => put({ schema: EXAMPLE })}>Example</button>
      <button type="button" disabled=${isEmpty || problems.length > 0} onClick=${tidy}>Tidy up</button>
    </div>`;
};

// A schema may be right and yet be more than this server holds answers to: only trying tells.
const TryFormat = ({ output, actions }) => {
  const [said, setSaid] = useState(null);
  const check = async () => {
    setSaid({ text: 'Asking the server …' });
    try {
      await actions.tryFormat();
      setSaid({ isRight: true, text: 'The server can hold answers to this.', of: output });
    } catch (error) {
      setSaid({ isRight: false, text: error.message, of: output });
    }
  };
  const isStale = said?.of !== undefined && said.of !== output;
  return html`
    <p class="row"><button type="button" onClick=${check}>Ask the server whether it can</button></p>
    <p role="status" class=${said?.isRight === false ? 'wrong' : 'right'}>${said && !isStale ? said.text : ''}</p>`;
};
