// Prometheus' text format, and what the page tells of it. Pure.

// name -> samples { labels, value }. Lines that are none are left out.
export const parseMetrics = (text) => {
  const found = new Map();
  for (const line of text.split('\n')) {
    const parts = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (parts === null) continue;
    const [, name, labels = '', value] = parts;
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({ labels: labelsOf(labels), value: Number(value) });
  }
  return found;
};

const labelsOf = (text) => Object.fromEntries(
  [...text.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value.replace(/\\(.)/g, '$1')]),
);

// The sum of a name's samples; null where the server does not tell it.
const sum = (metrics, name) => {
  const samples = metrics.get(name);
  return samples === undefined ? null : samples.reduce((total, sample) => total + sample.value, 0);
};

// What is shown of one scrape. Counters are as they stand; `atMs` is when it was read.
export const reading = (text, atMs) => {
  const metrics = parseMetrics(text);
  const refused = (metrics.get('request_refused_total') ?? []).filter(({ labels }) => labels.code === '429');
  return {
    atMs,
    slots: sum(metrics, 'num_request_max'),
    running: sum(metrics, 'num_requests_running'),
    waiting: sum(metrics, 'num_requests_waiting'),
    cacheUsed: metrics.get('gpu_cache_usage_perc')?.[0]?.value ?? null,
    queried: sum(metrics, 'prefix_cache_queries_total'),
    hits: sum(metrics, 'prefix_cache_hits_total'),
    steps: sum(metrics, 'engine_steps_total'),
    stepTokens: sum(metrics, 'engine_step_tokens_total'),
    runSeconds: sum(metrics, 'engine_run_seconds_total'),
    answered: sum(metrics, 'request_success_total'),
    failed: sum(metrics, 'request_failure_total'),
    overloaded: refused.reduce((total, { value }) => total + value, 0),
    memory: sum(metrics, 'process_resident_memory_bytes'),
    gpuUsed: sum(metrics, 'nv_gpu_memory_used_bytes'),
    gpuTotal: sum(metrics, 'nv_gpu_memory_total_bytes'),
  };
};

// What happened between two readings; null where nothing did, or the server was started anew in between.
export const between = (before, now) => {
  const seconds = (now.atMs - before.atMs) / 1000;
  const steps = now.steps - before.steps;
  if (!(seconds > 0) || steps < 0) return { stepMs: null, tokensPerSecond: null };
  return {
    stepMs: steps > 0 ? ((now.runSeconds - before.runSeconds) / steps) * 1000 : null,
    tokensPerSecond: (now.stepTokens - before.stepTokens) / seconds,
  };
};
