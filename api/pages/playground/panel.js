// The panel beside the conversation: tabs, of which one is shown. Arrow keys go from tab to tab.

import { Card } from './card.js';
import { Engine } from './engine.js';
import { Exchange } from './exchange.js';
import { html, useEffect, useRef } from './libraries.js';
import { Output } from './output.js';
import { IconButton } from './parts.js';
import { Sampling } from './sampling.js';
import { ToolBox } from './toolbox.js';

const TABS = [
  { id: 'sampling', name: 'Setup', view: Sampling },
  { id: 'output', name: 'Output', view: Output },
  { id: 'tools', name: 'Tools', view: ToolBox },
  { id: 'exchange', name: 'Request', view: Exchange },
  { id: 'engine', name: 'Engine', view: Engine },
  { id: 'card', name: 'Model', view: Card },
];

export const Panel = ({ state, actions }) => {
  const row = useRef(null);
  const shown = TABS.find(({ id }) => id === state.panel);
  const press = (event) => {
    const now = TABS.indexOf(shown);
    const target = {
      ArrowRight: (now + 1) % TABS.length,
      ArrowLeft: (now + TABS.length - 1) % TABS.length,
      Home: 0,
      End: TABS.length - 1,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    actions.set({ panel: TABS[target].id });
    row.current.children[target].focus();
  };
  useEffect(() => { // where the panel covers the page, the keyboard goes along
    const covers = getComputedStyle(row.current.closest('aside')).position === 'fixed';
    if (covers) row.current.querySelector('[aria-selected=true]').focus();
  }, []);
  const close = () => {
    actions.set({ panelOpen: false });
    document.getElementById('panel-switch').focus();
  };
  return html`
    <aside class="panel" id="panel" aria-label="Controls" onKeyDown=${(event) => event.key === 'Escape' && close()}>
      <div class="tab-row">
        <div class="tabs" role="tablist" aria-label="Controls" ref=${row} onKeyDown=${press}>
          ${TABS.map(({ id, name }) => html`
            <button
              type="button" role="tab" id="tab-${id}" aria-selected=${String(id === shown.id)} aria-controls="tab-panel"
              tabindex=${id === shown.id ? 0 : -1} onClick=${() => actions.set({ panel: id })}
            >${name}${isInUse(id, state) && html`<i class="dot" title="in use"></i>`}</button>`)}
        </div>
        <${IconButton} icon="close" label="Close" onClick=${close} />
      </div>
      <div class="tab-panel" id="tab-panel" role="tabpanel" aria-labelledby="tab-${shown.id}" tabindex="0">
        <${shown.view} state=${state} actions=${actions} />
      </div>
    </aside>`;
};

// Whether a tab's settings change what is asked.
const isInUse = (id, { output, tools }) => (id === 'output' && output.kind !== 'text')
  || (id === 'tools' && tools.on && tools.list.some(({ on }) => on));
