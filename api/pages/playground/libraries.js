// The libraries as the page's modules import them. Preact and htm are classic scripts that run before any module.

export { default as DOMPurify } from './libraries/dompurify/purify.es.mjs';
export { default as hljs } from './libraries/highlight/highlight.min.js';
export { Marked } from './libraries/marked/marked.esm.js';
export { Validator } from './libraries/json-schema/index.js';

const { h, render, Fragment } = globalThis.preact;
export { h, render, Fragment };
export const { useEffect, useLayoutEffect, useMemo, useRef, useState } = globalThis.preactHooks;
export const html = globalThis.htm.bind(h);
