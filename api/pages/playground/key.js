// The question for an API key: asked once, kept in this tab's storage until it is closed, sent to this server only.

import { html, useEffect, useRef, useState } from './libraries.js';

export const KeyDialog = ({ state, actions }) => {
  const [key, setKey] = useState('');
  const [isBusy, setBusy] = useState(false);
  const dialog = useRef(null);
  useEffect(() => { dialog.current.showModal(); }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    await actions.connect(key.trim());
    setBusy(false);
  };
  return html`
    <dialog class="key" ref=${dialog} aria-labelledby="key-title" onCancel=${(event) => event.preventDefault()}>
      <form onSubmit=${submit}>
        <h1 id="key-title">This server asks for a key</h1>
        <p>Its operator gives keys out. It is kept until you close this tab, and goes to this server only.</p>
        <div class="field">
          <label for="key">API key</label>
          <input id="key" type="password" autocomplete="off" spellcheck="false" value=${key}
            aria-describedby="key-says" onInput=${(event) => setKey(event.target.value)} />
          <p id="key-says" class="wrong" role="alert">${state.problem}</p>
        </div>
        <button type="submit" class="main" disabled=${isBusy || key.trim() === ''}>Use this key</button>
      </form>
    </dialog>`;
};
