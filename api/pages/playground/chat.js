// The conversation and the field to go on with it.

import { path, unfollowed } from './conversation.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from './libraries.js';
import { Message } from './message.js';
import { Icon, shortName } from './parts.js';

const EXAMPLES = [
  'Explain what a language model is, in two sentences.',
  'Write a Python function that reverses a linked list.',
  'Name three rivers, as a Markdown table with their lengths.',
];
const NEAR_END = 80; // pixels from the end within which the view follows the text

export const Chat = ({ state, actions }) => {
  const messages = path(state.tree);
  const left = unfollowed(state.tree).count;
  const place = useRef(null);
  const follows = useRef(true);
  useLayoutEffect(() => {
    if (follows.current) place.current.scrollTop = place.current.scrollHeight;
  });
  const note = ({ target }) => {
    follows.current = target.scrollHeight - target.scrollTop - target.clientHeight < NEAR_END;
  };
  return html`
    <main class="chat">
      <div class="scroll" ref=${place} onScroll=${note} tabindex="0" role="region" aria-label="Conversation">
        ${messages.length === 0 ? html`<${Empty} state=${state} actions=${actions} />` : html`
          <ol class="messages">
            ${messages.map((node) => html`<${Message} key=${node.id} node=${node} state=${state}
              actions=${actions} />`)}
          </ol>`}
        ${left > 0 && html`
          <p class="left-branches">
            <button type="button" class="quiet" onClick=${actions.back}>
              Back to ${messages.length === 0 ? 'the conversation before' : 'what followed here'}
            </button>
          </p>`}
      </div>
      <${Announcer} state=${state} messages=${messages} />
      <${Composer} state=${state} actions=${actions} onSend=${() => { follows.current = true; }} />
    </main>`;
};

const Empty = ({ state, actions }) => html`
  <div class="empty">
    <h1>What would you like to ask?</h1>
    <p>Everything stays between this page and <strong>
      ${state.model || 'the server'}</strong>. Each answer tells its numbers, and,
    token by token, what else the model had in mind.</p>
    <ul>
      ${EXAMPLES.map((text) => html`
        <li><button type="button" class="example" disabled=${state.phase !== 'ready'}
          onClick=${() => actions.send(text)}>${text}</button></li>`)}
    </ul>
  </div>`;

// What a screen reader hears: that an answer began, and at its end the whole of it; not each token.
const Announcer = ({ state, messages }) => {
  const last = messages.at(-1);
  let text = '';
  if (state.running !== null) text = 'The model answers.';
  else if (last?.role === 'assistant') {
    text = { stopped: 'Stopped. ', failed: '', done: 'Answer: ' }[last.status] ?? '';
    if (last.status !== 'failed') text += last.content.slice(0, 1000);
  }
  return html`<div class="unseen" role="status">${text}</div>`;
};

const Composer = ({ state, actions, onSend }) => {
  const [text, setText] = useState('');
  const field = useRef(null);
  const isRunning = state.running !== null;
  const isReady = state.phase === 'ready';
  useEffect(() => { if (isReady) field.current.focus(); }, [isReady]);
  const submit = (event) => {
    event?.preventDefault();
    if (isRunning) actions.stop();
    else if (isReady && text.trim() !== '') {
      onSend();
      actions.send(text);
      setText('');
    }
    field.current.focus();
  };
  const press = (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      if (!isRunning) submit();
    } else if (event.key === 'Escape' && isRunning) actions.stop();
  };
  return html`
    <form class="composer" onSubmit=${submit}>
      <label class="unseen" for="question">Message</label>
      <textarea
        id="question" ref=${field} rows="1" value=${text}
          placeholder=${state.model ? `Ask ${shortName(state.model)}` : 'Ask'}
        disabled=${!isReady} onInput=${(event) => setText(event.target.value)} onKeyDown=${press}
      ></textarea>
      <button type="submit" class="send" aria-label=${isRunning ? 'Stop' : 'Send'}
        title=${isRunning ? 'Stop (Esc)' : 'Send (Enter)'}
        disabled=${!isRunning && (text.trim() === '' || !isReady)}>
        <${Icon} name=${isRunning ? 'stop' : 'send'} />
      </button>
    </form>
    <p class="below">Enter sends, Shift+Enter begins a line, Esc stops. A model's answers may be wrong.</p>`;
};
