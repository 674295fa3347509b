// Small things that several views use: icons, a button that copies, rendered text, a field for JSON.

import { html, useEffect, useLayoutEffect, useRef, useState } from './libraries.js';
import { codeFragment, markdownFragment } from './markdown.js';

const ICONS = {
  send: 'M12 19V5M5 12l7-7 7 7',
  stop: 'M7 7h10v10H7z',
  retry: 'M4 12a8 8 0 1 0 2.6-5.9M4 4v5h5',
  edit: 'M4 20h4L19 9l-4-4L4 16zM13 7l4 4',
  copy: 'M9 9h11v11H9zM5 15H4V4h11v1',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  branch: 'M6 4v16M6 14c6 0 11-1 11-6M17 8a2.2 2.2 0 1 0 0-4.4A2.2 2.2 0 0 0 17 8z',
  left: 'M14.5 6l-6 6 6 6',
  right: 'M9.5 6l6 6-6 6',
  close: 'M6 6l12 12M18 6L6 18',
  panel: 'M4 5h16v14H4zM14.5 5v14',
  tokens: 'M3 8h6v8H3zM11 8h4v8h-4zM17 8h4v8h-4z',
  code: 'M8.5 7l-5 5 5 5M15.5 7l5 5-5 5',
  plus: 'M12 5v14M5 12h14',
  theme: 'M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16',
};

export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;

// A button that is only an icon; its name is read out and shown on hover.
export const IconButton = ({ icon, label, ...rest }) => html`
  <button type="button" class="icon-button" aria-label=${label} title=${label} ...${rest}><${Icon} name=${icon} />
    </button>`;

// Browsers copy only in secure contexts: elsewhere a selection does, which needs no permission.
const copyText = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement('textarea');
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand('copy');
  field.remove();
  if (!isCopied) throw new Error('this browser does not copy');
};

export const CopyButton = ({ text, label = 'Copy', plain = false }) => {
  const [state, setState] = useState('');
  const copy = () => copyText(typeof text === 'function' ? text() : text)
    .then(() => setState('Copied'), () => setState('Not copied'));
  useEffect(() => {
    if (state === '') return undefined;
    const timer = setTimeout(() => setState(''), 1500);
    return () => clearTimeout(timer);
  }, [state]);
  if (plain) return html`<button type="button" class="quiet" onClick=${copy}>${state || label}</button>`;
  return html`<${IconButton} icon=${state === 'Copied' ? 'check' : 'copy'} label=${state || label} onClick=${copy} />`;
};

// Puts a fragment of the document into an element, anew whenever `text` changes.
const useFragment = (make, ...inputs) => {
  const place = useRef(null);
  useLayoutEffect(() => place.current.replaceChildren(make(...inputs)), inputs);
  return place;
};

export const Markdown = ({ text }) => html`<div class="prose" ref=${useFragment(withScrollableCode, text)}></div>`;

const withScrollableCode = (text) => {
  const fragment = markdownFragment(text);
  fragment.querySelectorAll('pre').forEach((block) => block.setAttribute('tabindex', '0'));
  return fragment;
};

export const Code = ({ text, language, label }) => html`
  <pre class="code" tabindex="0" role="region" aria-label=${label}><code class="hljs"
    ref=${useFragment(codeFragment, text, language)}></code></pre>`;

// A field for code. Tab leaves it, as everywhere; what is wrong with its text stands below.
export const CodeField = ({ id, label, value, onInput, rows = 8, problems = [], hint }) => html`
  <div class="field">
    <label for=${id}>${label}</label>
    <textarea
      id=${id} class="mono" rows=${rows} spellcheck="false" autocomplete="off" value=${value}
      aria-invalid=${problems.length > 0} aria-describedby="${id}-says"
        onInput=${(event) => onInput(event.target.value)}
    ></textarea>
    <div id="${id}-says" class="says">
      ${problems.map((problem) => html`<p class="wrong">${problem}</p>`)}
      ${problems.length === 0 && hint && html`<p class="hint">${hint}</p>`}
    </div>
  </div>`;

// A model's name without its owner's.
export const shortName = (name) => name.split('/').at(-1);

export const number = (value, digits = 0) => value.toLocaleString('en', { maximumFractionDigits: digits });

export const bytes = (value) => {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  const place = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  return `${number(value / 1000 ** place, place > 1 ? 1 : 0)} ${units[place]}`;
};

export const duration = (ms) => (ms < 1000 ? `${number(ms, ms < 10 ? 1 : 0)} ms` : `${number(ms / 1000, 2)} s`);
