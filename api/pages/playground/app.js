// The page: its head, the conversation, the panel. Makes the state and hands it down; every view below draws what it is
// given and calls actions.

import { createActions } from './actions.js';
import { Chat } from './chat.js';
import { KeyDialog } from './key.js';
import { html, render, useEffect } from './libraries.js';
import { Panel } from './panel.js';
import { Icon, IconButton, shortName } from './parts.js';
import { createStore, initialState, useStore } from './store.js';

const THEMES = { auto: 'light', light: 'dark', dark: 'auto' }; // each leads to the next
const WIDE = '(min-width: 64rem)';

const Header = ({ state, actions }) => html`
  <header class="bar">
    <span class="brand">powertrain</span>
    ${state.names.length > 1
      ? html`<label class="unseen" for="model">Model</label>
        <select id="model" class="model" value=${state.model}
          onChange=${(event) => actions.set({ model: event.target.value })}>
          ${state.names.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>`
      : html`<span class="model" title=${state.model}>${shortName(state.model)}</span>`}
    <nav aria-label="Page">
      ${state.about?.docs && html`<a class="quiet api" href="${new URL('../docs', import.meta.url).href}">API</a>`}
      ${state.key !== '' && html`<button type="button" class="quiet forget"
        onClick=${actions.forgetKey}>Forget key</button>`}
      <${IconButton} icon="theme" label="Colours: ${state.theme}"
        onClick=${() => actions.set({ theme: THEMES[state.theme] })} />
      <button type="button" class="new" disabled=${state.running !== null} onClick=${() => actions.fork(null)}
        aria-label="New conversation" title="New conversation"><${Icon} name="plus" /><span>New</span></button>
      <${IconButton} icon="panel" label="Controls" id="panel-switch" aria-expanded=${String(state.panelOpen)}
        aria-controls="panel" onClick=${() => actions.set({ panelOpen: !state.panelOpen })} />
    </nav>
  </header>`;

const Unreachable = ({ state, actions }) => html`
  <div class="problem banner" role="alert">
    <p>${state.problem}</p>
    <button type="button" onClick=${() => actions.connect(state.key)}>Try again</button>
  </div>`;

const App = ({ store, actions }) => {
  const state = useStore(store);
  useEffect(() => { document.documentElement.dataset.theme = state.theme; }, [state.theme]);
  return html`
    <div class="page ${state.panelOpen ? 'with-panel' : ''}">
      <${Header} state=${state} actions=${actions} />
      ${state.phase === 'unreachable' && html`<${Unreachable} state=${state} actions=${actions} />`}
      <${Chat} state=${state} actions=${actions} />
      ${state.panelOpen && html`<${Panel} state=${state} actions=${actions} />`}
      ${state.phase === 'locked' && html`<${KeyDialog} state=${state} actions=${actions} />`}
    </div>`;
};

const store = createStore({ ...initialState(), panelOpen: window.matchMedia(WIDE).matches });
const actions = createActions(store);
render(html`<${App} store=${store} actions=${actions} />`, document.getElementById('app'));
actions.connect();
