// An answer token by token: the less likely, the stronger its colour. The one under the pointer or the focus shows what
// else the model had in mind. Arrow keys go from token to token.

import { html, useLayoutEffect, useRef, useState } from './libraries.js';

const MAX_SHOWN = 1500; // each token is an element
const GAP = 6; // pixels between a token and its card

const percent = (logprob) => {
  const value = Math.exp(logprob) * 100;
  return value >= 99.95 ? '100 %' : value < 0.1 ? '< 0.1 %' : `${value.toFixed(1)} %`;
};

// Blanks that can be seen.
const visible = (text) => text.replaceAll('\n', '↵').replaceAll('\t', '⇥').replaceAll(' ', '·') || '∅';

// The likeliest tokens and the chosen one, best first, with its rank; null: beyond them.
export const ranked = (token) => {
  const isChosen = (other) => other.token === token.token && String(other.bytes) === String(token.bytes);
  const top = token.top_logprobs.map((other) => ({ ...other, chosen: isChosen(other) }));
  const place = top.findIndex((other) => other.chosen);
  const list = place >= 0 ? top : [...top, { ...token, chosen: true }];
  const rest = 1 - list.reduce((sum, { logprob }) => sum + Math.exp(logprob), 0);
  return { list, rank: place < 0 ? null : place + 1, rest: Math.max(0, rest) };
};

export const Tokens = ({ tokens }) => {
  const [at, setAt] = useState(null);
  const [isAll, setAll] = useState(false);
  const place = useRef(null);
  const shown = isAll ? tokens : tokens.slice(0, MAX_SHOWN);
  const focus = (index) => place.current.querySelector(`[data-index="${index}"]`)?.focus();
  const press = (event) => {
    const now = Number(event.target.dataset?.index);
    const target = {
      ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: shown.length - 1,
    }[event.key];
    if (target !== undefined && !Number.isNaN(now)) {
      event.preventDefault();
      focus(Math.min(Math.max(target, 0), shown.length - 1));
    } else if (event.key === 'Escape') setAt(null);
  };
  return html`
    <div class="tokens" ref=${place} onMouseLeave=${() => setAt(null)}>
      <p class="hint">
        Colour shows how unlikely the chosen token was, before temperature and penalties. Arrow keys move.
      </p>
      <div class="flow" role="group" aria-label="Tokens" onKeyDown=${press}>
        ${shown.map((token, index) => html`<${Token} key=${index}
          ...${{ token, index, isFirst: (at ?? 0) === index, isAt: at === index, setAt }} />`)}
      </div>
      ${shown.length < tokens.length && html`<button type="button" class="quiet"
        onClick=${() => setAll(true)}>Show all ${tokens.length}</button>`}
      ${at !== null && shown[at] && html`<${Alternatives} token=${shown[at]} index=${at} place=${place} />`}
    </div>`;
};

const Token = ({ token, index, isFirst, isAt, setAt }) => html`
  <span
    role="button" class="token" data-index=${index} tabindex=${isFirst ? 0 : -1}
      style=${{ '--doubt': 1 - Math.exp(token.logprob) }}
    aria-label="${token.token.trim() || visible(token.token)}, ${percent(token.logprob)}"
      aria-describedby=${isAt ? 'alternatives' : undefined}
    onMouseEnter=${() => setAt(index)} onFocus=${() => setAt(index)} onClick=${() => setAt(index)}
  >${token.token === '' ? '∅' : token.token.replaceAll('\n', '↵\n')}</span>`;

const inWords = (rank, count) => {
  if (rank === null) return `not among the ${count} likeliest`;
  return rank === 1 ? 'the likeliest' : `number ${rank} by likelihood`;
};

const Alternatives = ({ token, index, place }) => {
  const card = useRef(null);
  useLayoutEffect(() => { // within the text's width, below its token or, where there is no room, above
    const { offsetWidth: width, offsetHeight: height, style } = card.current;
    const box = place.current.getBoundingClientRect();
    const own = place.current.querySelector(`[data-index="${index}"]`).getClientRects()[0];
    const end = place.current.closest('.scroll').getBoundingClientRect().bottom;
    const isBelow = own.bottom + GAP + height <= end || own.top - GAP - height < 0;
    style.left = `${Math.max(0, Math.min(own.left - box.left, box.width - width))}px`;
    style.top = `${(isBelow ? own.bottom + GAP : own.top - GAP - height) - box.top}px`;
  }, [index]);
  const { list, rank, rest } = ranked(token);
  return html`
    <div class="alternatives" id="alternatives" ref=${card} role="tooltip">
      <p>Token ${index + 1}: ${inWords(rank, token.top_logprobs.length)}</p>
      <ol>
        ${list.map(({ token: text, logprob, chosen }) => html`
          <li class=${chosen ? 'chosen' : ''}>
            <code>${visible(text)}</code>
            <span class="gauge"><i style=${{ width: `${Math.exp(logprob) * 100}%` }}></i></span>
            <span class="share">${percent(logprob)}${chosen && html`<span class="unseen">, chosen</span>`}</span>
          </li>`)}
        <li class="rest"><span>all others</span><span class="gauge"><i style=${{ width: `${rest * 100}%` }}></i>
          </span><span class="share">${percent(Math.log(rest || 1e-9))}</span></li>
      </ol>
    </div>`;
};
