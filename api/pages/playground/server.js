// Requests to this page's own server, and what can go wrong with them. Knows no element; the key comes with each call.

const base = new URL('..', import.meta.url);

// Where the server is, as its clients write it: without a slash at the end.
export const serverUrl = () => base.href.replace(/\/$/, '');

// A request that was not answered. `status` is 0 where nothing came back.
export class Refused extends Error {
  constructor(status, message, retryAfterS = null) {
    super(message);
    this.name = 'Refused';
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

const UNREACHABLE = 'The server cannot be reached: it has stopped, or the network to it is cut.';

const refusalOf = async (response) => {
  const text = await response.text().catch(() => '');
  let message = text.slice(0, 500) || `The server answered ${response.status}.`;
  try {
    const { error } = JSON.parse(text);
    message = typeof error === 'string' ? error : error?.message ?? message;
  } catch { /* a proxy's page, or nothing: shown as it is */ }
  const wait = Number.parseFloat(response.headers.get('retry-after') ?? '');
  return new Refused(response.status, message, Number.isFinite(wait) ? wait : null);
};

// The response to a request for `path`, relative to the server's root. Throws Refused, or AbortError if told to stop.
export const ask = async (path, { key, body, signal } = {}) => {
  if (key && !/^[\x20-\x7e]*$/.test(key)) throw new Refused(401, 'No key of a server holds such characters.');
  let response;
  try {
    response = await fetch(new URL(path, base), {
      method: body === undefined ? 'GET' : 'POST',
      headers: {
        ...(key && { authorization: `Bearer ${key}` }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'omit',
      cache: 'no-store',
      signal,
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, UNREACHABLE);
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
};

export const askJson = async (path, options) => (await ask(path, options)).json();
export const askText = async (path, options) => (await ask(path, options)).text();

// The data of server-sent events, one string each, as they come. Throws Refused where the connection breaks.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const part of parts) if (part.startsWith('data: ')) yield part.slice('data: '.length);
    }
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, 'The connection broke before the answer was whole.');
  } finally {
    reader.cancel().catch(() => {});
  }
}
