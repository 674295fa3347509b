// A model's text as something to look at. The text may say anything, so nothing of it acts: marked's output passes
// DOMPurify, which keeps few elements and fewer attributes; HTML in the text is shown as text, an image as its words
// and address, a link only where it leads to http, https or mail. Under the page's policy nothing else becomes HTML.
// In code, what would turn the direction of writing stands as its number, so that code reads as it runs; a text that is
// nested more deeply than the parser goes is shown as it was written.

import { DOMPurify, hljs, Marked } from './libraries.js';

const MAX_HIGHLIGHTED = 50_000; // characters of one code block
const ALLOWED = {
  ALLOWED_TAGS: [
    'a', 'blockquote', 'br', 'code', 'del', 'em', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'li', 'ol', 'p', 'pre',
    'span', 'strong', 'table', 'tbody', 'td', 'th', 'thead', 'tr', 'ul',
  ],
  ALLOWED_ATTR: ['href', 'title', 'class', 'start', 'align', 'rel', 'target'],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ADD_URI_SAFE_ATTR: ['align', 'rel', 'start', 'target'], // values that are no addresses
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const escape = (text) => text
  .replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

const isHarmless = (href) => ALLOWED.ALLOWED_URI_REGEXP.test(href);

const TURNING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const numbered = (html) => html.replace(TURNING, (mark) => (
  `<span class="turning">U+${mark.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}</span>`
));

const highlighted = (code, language) => {
  const known = language && hljs.getLanguage(language) && code.length <= MAX_HIGHLIGHTED;
  return numbered(known ? hljs.highlight(code, { language, ignoreIllegals: true }).value : escape(code));
};

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    code({ text, lang }) {
      const language = /^[\w+#-]*/.exec(lang ?? '')[0].toLowerCase();
      return `<pre><code class="hljs" title="${language}">${highlighted(text, language)}</code></pre>`;
    },
    codespan: ({ text }) => `<code>${numbered(escape(text))}</code>`,
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<span
      class="no-image">[image: ${escape(text || 'without words')} - ${escape(href)}]</span>`,
    link({ href, tokens }) {
      const inner = this.parser.parseInline(tokens);
      if (!isHarmless(href)) return inner;
      return `<a href="${escape(href)}" title="${escape(href)}" rel="noopener noreferrer nofollow" target="_blank">
        ${inner}</a>`;
    },
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

const asWritten = (text) => {
  const fragment = document.createDocumentFragment();
  const shown = document.createElement('p');
  shown.className = 'as-written';
  shown.textContent = text;
  fragment.append(shown);
  return fragment;
};

// A fragment of the document.
export const markdownFragment = (text) => {
  try {
    return DOMPurify.sanitize(marked.parse(text), ALLOWED);
  } catch { // thousands of quotations in each other
    return asWritten(text);
  }
};

// The same for one piece of code in a language that is known to the highlighter.
export const codeFragment = (code, language) => DOMPurify.sanitize(highlighted(code, language), ALLOWED);
