// A request as a program that a person can run: curl, Python, Node. Pure. No key is ever written into one.

// What the openai library for Python takes as arguments of its own; everything else goes into extra_body.
const PYTHON_ARGUMENTS = new Set([
  'model', 'messages', 'frequency_penalty', 'logit_bias', 'logprobs', 'max_completion_tokens', 'max_tokens', 'n',
  'parallel_tool_calls', 'presence_penalty', 'response_format', 'seed', 'stop', 'stream', 'stream_options',
  'temperature', 'tool_choice', 'tools', 'top_logprobs', 'top_p',
]);

export const curl = (server, body, needsKey) => [
  `curl -N ${server}/v1/chat/completions`,
  "  -H 'Content-Type: application/json'",
  ...(needsKey ? ['  -H "Authorization: Bearer $API_KEY"'] : []),
  `  -d '${JSON.stringify(body, null, 2).replaceAll("'", String.raw`'\''`)}'`,
].join(' \\\n');

export const python = (server, body, needsKey) => {
  const own = Object.entries(body).filter(([name]) => PYTHON_ARGUMENTS.has(name));
  const others = Object.entries(body).filter(([name]) => !PYTHON_ARGUMENTS.has(name));
  const given = [
    ...own.map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`),
    ...(others.length > 0 ? [`    extra_body=${pythonValue(Object.fromEntries(others), 1)},`] : []),
  ];
  return [
    ...(needsKey ? ['import os', ''] : []),
    'from openai import OpenAI',
    '',
    'client = OpenAI(',
    `    base_url=${JSON.stringify(`${server}/v1`)},`,
    `    api_key=${needsKey ? 'os.environ["API_KEY"]' : '"not-used"'},`,
    ')',
    'stream = client.chat.completions.create(',
    ...given,
    ')',
    'for chunk in stream:',
    '    if chunk.choices:',
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    '',
  ].join('\n');
};

// JSON's strings are Python's but for lone surrogates, which no text field holds.
const pythonValue = (value, depth) => {
  const inner = '    '.repeat(depth + 1);
  const outer = '    '.repeat(depth);
  if (value === null) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value !== 'object') return JSON.stringify(value);
  const parts = Array.isArray(value)
    ? value.map((item) => pythonValue(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonValue(item, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  const short = `${open}${parts.join(', ')}${close}`;
  if (short.length < 60 && !short.includes('\n')) return short;
  return `${open}\n${parts.map((part) => `${inner}${part},`).join('\n')}\n${outer}${close}`;
};

export const node = (server, body, needsKey) => [
  "import OpenAI from 'openai';",
  '',
  'const client = new OpenAI({',
  `  baseURL: ${JSON.stringify(`${server}/v1`)},`,
  `  apiKey: ${needsKey ? 'process.env.API_KEY' : "'not-used'"},`,
  '});',
  `const stream = await client.chat.completions.create(${JSON.stringify(body, null, 2)});`,
  'for await (const chunk of stream) {',
  "  process.stdout.write(chunk.choices[0]?.delta?.content ?? '');",
  '}',
  '',
].join('\n');
