// The page's state: one object, replaced as a whole, and who wants to hear of it. Knows no element and no server.

import { emptyTree } from './conversation.js';
import { useEffect, useState } from './libraries.js';

export const initialState = () => ({
  phase: 'starting', // starting, locked (a key is missing), ready, unreachable
  problem: '', // why locked or unreachable
  key: '',
  about: null, // /playground/about
  names: [], // /v1/models
  model: '',
  panel: 'sampling',
  panelOpen: false, // counts where the panel covers the page
  theme: 'auto',
  sampling: { system: '', stop: '', effort: '', tokens: true }, // numbers are absent until the user sets them
  output: { kind: 'text', schema: '', regex: '', choices: '', grammar: '' },
  tools: { on: true, list: [], choice: 'auto' },
  tree: emptyTree(),
  running: null, // the id of the answer that is being written
  shown: null, // the id of the answer whose request the panel shows
});

export const createStore = (state) => {
  const listeners = new Set();
  return {
    get: () => state,
    // `change` is an object of new values, or a function from the state to one.
    set(change) {
      state = { ...state, ...(typeof change === 'function' ? change(state) : change) };
      listeners.forEach((listener) => listener());
    },
    listen(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
};

// The state, for a component that draws itself anew whenever it changes.
export const useStore = (store) => {
  const [, redraw] = useState(0);
  useEffect(() => {
    const again = () => redraw((count) => count + 1);
    again(); // what changed between the first drawing and now
    return store.listen(again);
  }, [store]);
  return store.get();
};
