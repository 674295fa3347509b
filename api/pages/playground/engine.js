// The engine at work: slots, queue, cache, steps, memory, from this server's own metrics, once a second while seen.

import { html, useEffect, useState } from './libraries.js';
import { between, reading } from './metrics.js';
import { bytes, duration, number } from './parts.js';
import { askText } from './server.js';

const EVERY_MS = 1000;
const KEPT = 60; // readings
const MAX_SQUARES = 256;

// The readings so far, and why there are none.
const useReadings = (key) => {
  const [state, setState] = useState({ list: [], problem: null });
  useEffect(() => {
    let timer = null;
    let isOver = false;
    const read = async () => {
      if (!document.hidden) {
        try {
          const now = reading(await askText('v1/metrics', { key }), performance.now());
          if (!isOver) setState(({ list }) => ({ list: [...list, now].slice(-KEPT), problem: null }));
        } catch (error) {
          if (!isOver) setState(({ list }) => ({ list, problem: error }));
          if ([401, 403, 404].includes(error.status)) return; // asking again changes nothing
        }
      }
      if (!isOver) timer = setTimeout(read, EVERY_MS);
    };
    read();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [key]);
  return state;
};

export const Engine = ({ state }) => {
  const { list, problem } = useReadings(state.key);
  const now = list.at(-1);
  if (now === undefined) return html`<p class="intro">${problem ? closed(problem) : 'Reading the metrics …'}</p>`;
  const since = between(list[0], now);
  const pairs = list.slice(1).map((one, index) => between(list[index], one));
  const share = now.queried > 0 ? now.hits / now.queried : null;
  return html`
    ${problem && html`<p class="wrong" role="alert">${closed(problem)} What is shown is from before.</p>`}
    <${Slots} running=${now.running} slots=${now.slots} />
    <dl class="facts">
      <${Fact} name="Waiting" value=${number(now.waiting)} />
      <${Fact} name="Refused, too busy" value=${number(now.overloaded)} />
      <${Fact} name="Cache in use" value=${percent(now.cacheUsed)} />
      <${Fact} name="Prompt tokens from cache" value=${share === null ? 'none yet' : percent(share)} />
      <${Fact} name="Answered" value=${number(now.answered ?? 0)} />
      <${Fact} name="Failed" value=${number(now.failed ?? 0)} />
      ${now.memory !== null && html`<${Fact} name="Memory of the process" value=${bytes(now.memory)} />`}
      ${now.gpuUsed !== null && html`<${Fact} name="Memory of the GPU"
        value="${bytes(now.gpuUsed)} of ${bytes(now.gpuTotal)}" />`}
    </dl>
    <${Line} name="Tokens a second, prompt and answer" values=${pairs.map(({ tokensPerSecond }) => tokensPerSecond)}
      show=${(value) => number(value, 1)} />
    <${Line} name="Time of a step in the backend" values=${pairs.map(({ stepMs }) => stepMs)} show=${duration}
      quiet="no step" />
    <${Line} name="Slots in use" values=${list.map(({ running }) => running)} show=${number} />
    <p class="hint">
      Of the last ${list.length} s; mean step ${since.stepMs === null ? 'unknown' : duration(since.stepMs)}.
      ${' '}Read from <code>/v1/metrics</code> while this tab is open.
    </p>`;
};

const closed = (problem) => {
  if (problem.status === 403 || problem.status === 401) return `Metrics are closed: ${problem.message}`;
  return `Metrics cannot be read: ${problem.message}`;
};

const percent = (share) => (share === null ? 'unknown' : `${number(share * 100, 1)} %`);

const Fact = ({ name, value }) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

const Slots = ({ running, slots }) => html`
  <h2>Slots</h2>
  <div class="slots" role="img" aria-label="${running} of ${slots} slots in use">
    ${Array.from({ length: Math.min(slots, MAX_SQUARES) }, (_, index) => html`<i
      class=${index < running ? 'used' : ''}></i>`)}
  </div>
  <p class="hint">${number(running)} of ${number(slots)} answers at once</p>`;

// A series of the last minute, with its latest and largest value in words.
const Line = ({ name, values, show, quiet = 'none' }) => {
  const known = values.filter((value) => value !== null);
  const most = Math.max(...known, 0);
  const latest = values.at(-1) ?? null;
  const at = (value, index) => `${index + KEPT - values.length},${30 - 28 * (most > 0 ? (value ?? 0) / most : 0)}`;
  return html`
    <figure class="line">
      <figcaption><span>${name}</span> <strong>${latest === null ? quiet : show(latest)}</strong></figcaption>
      <svg viewBox="0 0 ${KEPT - 1} 32" preserveAspectRatio="none" role="img"
        aria-label="${name}: most ${known.length > 0 ? show(most) : quiet}">
        <polyline points=${values.map(at).join(' ')} />
      </svg>
    </figure>`;
};
