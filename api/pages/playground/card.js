// The served model: where it came from, how it is stored, how far that is from the original, and its licence.

import { html, useEffect, useState } from './libraries.js';
import { bytes, number } from './parts.js';
import { aboutModel } from './sampling.js';
import { askJson } from './server.js';

// What the server tells of its package: { manifest, license }, or { problem }.
const usePackage = (key) => {
  const [found, setFound] = useState(null);
  useEffect(() => {
    let isOver = false;
    Promise.all([askJson('v1/manifest', { key }), askJson('v1/license', { key })]).then(
      ([{ manifest_file: text }, license]) => isOver || setFound({ manifest: text ? JSON.parse(text) : null, license }),
      (error) => isOver || setFound({ problem: error.message }),
    );
    return () => { isOver = true; };
  }, [key]);
  return found;
};

export const Card = ({ state }) => {
  const found = usePackage(state.key);
  if (found === null) return html`<p class="intro">Asking for the model's package …</p>`;
  if (found.problem) return html`<p class="wrong" role="alert">The package could not be read: ${found.problem}</p>`;
  const { manifest, license } = found;
  const known = manifest === null ? [] : [manifest.name, ...manifest.served_names];
  const isOther = manifest && state.names.length > 1 && !known.includes(state.model);
  if (isOther) return html`<p class="intro">The server tells of the package of ${manifest.name} alone.</p>`;
  return html`
    <h2 class="model-name">${state.model}</h2>
    <dl class="facts wide">
      <${Fact} name="Context" value="${number(aboutModel(state)?.max_model_len ?? 0)} tokens" />
      ${manifest && html`
        <${Fact} name="Source" value=${`${manifest.source.kind}: ${manifest.source.name}`} />
        <${Fact} name="Architecture"
          value=${architecture(manifest)} />
        <${Fact} name="Files" value=${bytes(Object.values(manifest.files).reduce((sum, { size }) => sum + size, 0))} />
        <${Fact} name="Built" value=${new Date(manifest.created_unix * 1000).toISOString().slice(0, 10)} />`}
    </dl>
    ${manifest === null && html`<p
      class="intro">This model comes without a manifest, so nothing is known of its precision.</p>`}
    ${manifest && Object.entries(manifest.graphs).map(([name, graph]) => html`<${Precision} key=${name} name=${name}
      graph=${graph} />`)}
    ${manifest && html`<${Quality} quality=${manifest.quality} />`}
    <h2>Licence</h2>
    <p>${license.name || 'Not named'}</p>
    ${license.content && html`<details><summary>Full text</summary><pre class="code wrapped" tabindex="0"
      role="region" aria-label="Licence">${license.content}</pre></details>`}`;
};

const architecture = ({ architecture: name, shape }) => (
  `${name}, ${shape.num_layers} layers, ${number(shape.vocab_size)} tokens in its vocabulary`
);

const Fact = ({ name, value }) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;

const Precision = ({ name, graph }) => html`
  <h2>Precision plan, graph ${name}</h2>
  <table>
    <thead><tr><th scope="col">Weights</th><th scope="col">Stored as</th></tr></thead>
    <tbody>${Object.entries(graph.precision).map(([group, form]) => html`<tr><th scope="row">${group}</th><td>
      ${form}</td></tr>`)}</tbody>
  </table>
  <p class="hint">${bytes(graph.weight_bytes)} read for each step; cache of ${graph.kv_dtype}.</p>`;

// KL is in nats per token, KL(original || package).
const Quality = ({ quality }) => (quality === null ? html`
  <h2>Distance from the original</h2><p>Not measured.</p>` : html`
  <h2>Distance from the original</h2>
  <dl class="facts">
    <${Fact} name="Mean KL" value="${quality.mean_kl.toFixed(4)} nats" />
    <${Fact} name="99th percentile" value="${quality.p99_kl.toFixed(4)} nats" />
    <${Fact} name="Same likeliest token" value="${(quality.top1_agreement * 100).toFixed(1)} %" />
    <${Fact} name="Perplexity"
      value="${quality.perplexity.toFixed(2)} (original ${quality.reference_perplexity.toFixed(2)})" />
  </dl>
  <p class="hint">
    Measured on ${number(quality.num_tokens)} tokens of ${quality.text}; at most ${quality.max_mean_kl} nats were
    allowed.
  </p>`);
