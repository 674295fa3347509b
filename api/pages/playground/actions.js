// What a person can do: each action changes the state and, where it must, asks the server. Knows no element.

import { follow, newAnswer } from './answer.js';
import { above, add, change, edited, fork, path, step, unfollowed } from './conversation.js';
import { requestBody } from './request.js';
import { ask, askJson } from './server.js';

const KEY_PLACE = 'powertrain.key'; // in the browser's storage of this tab, which ends with it

const NOT_VALID = 'This key does not open the server.';

const storedKey = () => {
  try {
    return sessionStorage.getItem(KEY_PLACE) ?? '';
  } catch {
    return ''; // storage is forbidden: the key is asked for again
  }
};

const storeKey = (key) => {
  try {
    if (key === '') sessionStorage.removeItem(KEY_PLACE);
    else sessionStorage.setItem(KEY_PLACE, key);
  } catch { /* kept in memory alone */ }
};

export const createActions = (store) => {
  let stopper = null;
  const set = (values) => store.set(values);

  // Learns what is served. A refused key leads to the question for one.
  const connect = async (key = storedKey()) => {
    set({ key, problem: '' });
    try {
      const about = await askJson('playground/about', { key }); // alone: a wrong key counts once
      const models = await askJson('v1/models', { key });
      // An alias is another name of a model that is listed already.
      const names = models.data.filter(({ id, root, parent }) => id === root || parent !== null).map(({ id }) => id);
      const { model } = store.get();
      storeKey(key);
      set({ phase: 'ready', about, names, model: names.includes(model) ? model : names[0] ?? '' });
    } catch (error) {
      const isLocked = [401, 403, 429].includes(error.status);
      const said = error.status === 401 ? (key === '' ? '' : NOT_VALID) : error.message;
      if (isLocked && error.status !== 429) storeKey('');
      set({ phase: isLocked ? 'locked' : 'unreachable', problem: said });
    }
  };

  const forgetKey = () => {
    storeKey('');
    set({ key: '', phase: 'locked', problem: '' });
  };

  // Asks for what follows message `parent`, in a branch of its own.
  const answer = async (parent) => {
    const state = store.get();
    if (state.running !== null) return;
    const { tree } = state;
    const messages = [...above(tree, parent), tree.nodes[parent]];
    let body;
    try {
      body = requestBody(state, messages);
    } catch (error) {
      const problem = { status: 400, message: `A schema or a tool is not yet valid JSON: ${error.message}` };
      const [failed] = add(tree, parent, { ...newAnswer(null), status: 'failed', problem });
      set({ tree: failed });
      return;
    }
    const [grown, id] = add(tree, parent, { ...newAnswer(body), format: state.output.kind });
    stopper = new AbortController();
    set({ tree: grown, running: id, shown: id });
    await follow(body, { key: state.key, signal: stopper.signal, tell: drawnPerFrame(id) });
    set({ running: null });
    if (store.get().tree.nodes[id].problem?.status === 401) forgetKey();
  };

  // Chunks may come faster than the screen is drawn: what an answer holds is shown once per frame, its end at once.
  const drawnPerFrame = (id) => {
    let waiting = null;
    return (values) => {
      const isOver = ['done', 'stopped', 'failed'].includes(values.status);
      const show = () => {
        waiting = null;
        set((state) => ({ tree: change(state.tree, id, values) }));
      };
      if (isOver) {
        clearTimeout(waiting);
        show();
      } else {
        waiting ??= setTimeout(show, 16); // and not a frame of the screen's: a hidden page has none
      }
    };
  };

  return {
    connect,
    forgetKey,
    set,
    setIn: (part, values) => set((state) => ({ [part]: { ...state[part], ...values } })),
    stop: () => stopper?.abort(),

    // A message of the user after everything that is followed, and the answer to it.
    send(text) {
      const { tree, running } = store.get();
      if (running !== null || text.trim() === '') return;
      const [grown, id] = add(tree, path(tree).at(-1)?.id ?? null, { role: 'user', content: text });
      set({ tree: grown });
      answer(id);
    },

    retry(id) {
      answer(store.get().tree.nodes[id].parent);
    },

    // A changed copy of a message. A user's is answered anew; an answer's is what the conversation goes on with.
    edit(id, text) {
      const [grown, copy] = edited(store.get().tree, id, text);
      set({ tree: grown });
      if (grown.nodes[copy].role === 'user') answer(copy);
    },

    // Results of an answer's calls, in their order, and what the model makes of them.
    giveResults(id, results) {
      const { calls } = store.get().tree.nodes[id];
      let { tree } = store.get();
      let parent = id;
      calls.forEach((call, index) => {
        [tree, parent] = add(tree, parent, {
          role: 'tool', callId: call.id, name: call.name, content: results[index] ?? '',
        });
      });
      set({ tree });
      answer(parent);
    },

    step: (id, by) => set((state) => ({ tree: step(state.tree, id, by) })),
    fork: (id) => set((state) => ({ tree: fork(state.tree, id) })),
    back: () => set((state) => ({ tree: unfollowed(state.tree).back() })),

    // Whether the server can hold answers to a format: asks for one token of such an answer. Throws Refused.
    async tryFormat() {
      const state = store.get();
      const messages = [{ role: 'user', content: 'Answer in the form that was asked for.' }];
      const silent = { ...state.sampling, tokens: false, stop: '', max_tokens: 1 };
      const body = requestBody({ ...state, sampling: silent, tools: { list: [] } }, messages);
      const { stream, stream_options: _, ...plain } = body;
      await ask('v1/chat/completions', { key: state.key, body: plain });
    },
  };
};
