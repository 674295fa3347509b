// What goes with every question: the system prompt, and how tokens are drawn. A control that nobody touched shows the
// model's default and is not sent.

import { html } from './libraries.js';
import { number } from './parts.js';
import { defaultOf, NUMBERS } from './request.js';

const EFFORTS = ['none', 'low', 'medium', 'high'];

export const aboutModel = ({ about, model }) => about?.models.find(({ name }) => name === model) ?? about?.models[0];

export const Sampling = ({ state, actions }) => {
  const { sampling } = state;
  const served = aboutModel(state);
  const put = (values) => actions.setIn('sampling', values);
  const names = [...NUMBERS.map(({ name }) => name), 'max_tokens', 'seed'];
  const isTouched = names.some((name) => sampling[name] !== undefined);
  const reset = () => put({
    ...Object.fromEntries(names.map((name) => [name, undefined])), stop: '', effort: '',
  });
  return html`
    <div class="field">
      <label for="system">System prompt</label>
      <textarea id="system" rows="4" placeholder="None" value=${sampling.system}
        onInput=${(event) => put({ system: event.target.value })}></textarea>
    </div>
    ${NUMBERS.map((one) => html`<${NumberField} key=${one.name} ...${one} value=${sampling[one.name]}
      byDefault=${defaultOf(one.name, served?.defaults)} put=${put} />`)}
    ${served?.reasons && html`
      <div class="field">
        <label for="effort">Reasoning</label>
        <select id="effort" value=${sampling.effort} onChange=${(event) => put({ effort: event.target.value })}>
          <option value="">as the model does by itself</option>
          ${EFFORTS.map((effort) => html`<option value=${effort}>${effort}</option>`)}
        </select>
      </div>`}
    <div class="pair">
      <${PlainNumber} name="max_tokens" label="Longest answer"
        placeholder=${served?.defaults.max_tokens ?? 'the context'} least="1" value=${sampling.max_tokens} put=${put} />
      <${PlainNumber} name="seed" label="Seed" placeholder="random" value=${sampling.seed} put=${put} />
    </div>
    <div class="field">
      <label for="stop">Stop texts, one a line</label>
      <textarea id="stop" class="mono" rows="2" value=${sampling.stop}
        onInput=${(event) => put({ stop: event.target.value })}></textarea>
      ${state.about && html`<p class="hint">At most ${state.about.max_stop_strings}.</p>`}
    </div>
    <label class="check">
      <input type="checkbox" checked=${sampling.tokens} onChange=${(event) => put({ tokens: event.target.checked })} />
      Ask for each token's probability
    </label>
    <p><button type="button" class="quiet" disabled=${!isTouched && sampling.stop === '' && sampling.effort === ''}
      onClick=${reset}>Back to the model's defaults</button></p>`;
};

// What a field for a number holds; undefined where it is empty.
const given = ({ target }) => (Number.isNaN(target.valueAsNumber) ? undefined : target.valueAsNumber);

const NumberField = ({ name, label, least, most, step, hint, value, byDefault, put }) => {
  const shown = value ?? byDefault;
  const take = (event) => put({ [name]: given(event) });
  const id = `number-${name}`;
  return html`
    <div class="number-field ${value === undefined ? 'untouched' : ''}">
      <label for=${id}>${label}</label>
      <input id=${id} type="number" min=${least} max=${most} step="any" value=${value === undefined ? '' : value}
        placeholder=${number(byDefault, 3)} aria-describedby="${id}-hint" onInput=${take} />
      <input type="range" aria-label="${label}, slider" min=${least} max=${most} step=${step} value=${shown}
        onInput=${take} />
      <p class="hint" id="${id}-hint">${hint}${value === undefined && html`<span
        class="unseen"> (the model's default)</span>`}</p>
    </div>`;
};

const PlainNumber = ({ name, label, placeholder, least, value, put }) => html`
  <div class="field">
    <label for="number-${name}">${label}</label>
    <input
      id="number-${name}" type="number" step="1" min=${least} placeholder=${placeholder} value=${value ?? ''}
      onInput=${(event) => put({ [name]: given(event) })}
    />
  </div>`;
