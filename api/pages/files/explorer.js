// Fills the page of /docs: gives RapiDoc the description, follows the colours that the reader prefers, and shows a
// stream's events as they come. A key that is typed in stays in the page's memory and goes to this server only.

const explorer = document.querySelector('rapi-doc');
const base = new URL(document.body.dataset.base, document.baseURI).href;

const dark = window.matchMedia('(prefers-color-scheme: dark)');
const followColours = () => {
  explorer.setAttribute('theme', dark.matches ? 'dark' : 'light');
  explorer.setAttribute('bg-color', dark.matches ? '#16191d' : '#ffffff');
  explorer.setAttribute('primary-color', dark.matches ? '#2dd4bf' : '#0f766e');
};
dark.addEventListener('change', followColours);
followColours();

// RapiDoc shows a body once it is whole. A copy of the stream fills the same place meanwhile.
let panel = null;
explorer.addEventListener('before-try', (event) => { [panel] = event.composedPath(); });

const showAsItComes = async (shownIn, response) => {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ''; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    shownIn.responseText = text;
  }
};

const plainFetch = window.fetch.bind(window);
window.fetch = async (...asked) => {
  const response = await plainFetch(...asked);
  const type = response.headers.get('content-type') ?? '';
  if (panel !== null && type.startsWith('text/event-stream')) {
    showAsItComes(panel, response.clone()).catch(() => {}); // RapiDoc tells of a stream that breaks
  }
  return response;
};

const fail = (why) => {
  const problem = document.getElementById('problem');
  problem.textContent = `The description of the interface could not be read: ${why}`;
  problem.hidden = false;
};

try {
  const response = await plainFetch(`${base}openapi.json`);
  if (response.ok) {
    const description = await response.json();
    description.servers = [{ url: base.replace(/\/$/, '') }]; // RapiDoc takes no address relative to the description
    delete description.info.description; // the page has an overview of its own
    const needsKey = !description.security.some((needed) => Object.keys(needed).length === 0);
    document.getElementById('key').hidden = !needsKey;
    explorer.setAttribute('allow-authentication', String(needsKey));
    if (!needsKey) { // RapiDoc would call a key that may be left out required
      delete description.security;
      delete description.components.securitySchemes;
    }
    await customElements.whenDefined('rapi-doc');
    await explorer.loadSpec(description);
  } else {
    fail(`the server answered ${response.status}.`);
  }
} catch (error) {
  fail(error.message);
}
