"""The words that begin with ``/``: what each does to a conversation, and the help that lists them.

Asks no model: what needs one is told to the session by the result. Knows no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path

import msgspec
from runtime.did_you_mean import did_you_mean

from chat.conversation import Conversation, schema_from
from chat.errors import ChatError


class Next(Enum):
    """What the session does after a command."""

    READ = auto()
    RETRY = auto()
    LEAVE = auto()


_NEXT_NAME = re.compile(r"\s+(?=[A-Za-z_]\w*=)")  # values are JSON, which may hold blanks
Result = tuple[Next, str]  # and what to tell the person; empty for nothing


def run_slash(line: str, conversation: Conversation) -> Result:
    """Run a line that begins with ``/``. Raises ChatError, in one line, for an unknown word or a bad value."""
    word, _, rest = line.strip().partition(" ")
    if word not in _COMMANDS:
        raise ChatError(f"there is no {word}.{did_you_mean(word, _COMMANDS)} /help lists what there is")
    return _COMMANDS[word][2](conversation, rest.strip())


def slash_words() -> list[str]:
    """Every command, for completion."""
    return list(_COMMANDS)


def _system(conversation: Conversation, text: str) -> Result:
    if text:
        conversation.system = None if text == "off" else text
        return Next.READ, "system prompt set" if conversation.system else "system prompt off"
    return Next.READ, conversation.system or "no system prompt; /system TEXT sets one"


def _params(conversation: Conversation, text: str) -> Result:
    before = dict(conversation.params)
    try:
        for word in _NEXT_NAME.split(text) if text else ():
            conversation.set_param(word)
    except ChatError:
        conversation.params = before
        raise
    shown = " ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in conversation.params.items())
    return Next.READ, shown or "no parameters set: the endpoint's defaults; /params name=value sets one"


def _json(conversation: Conversation, text: str) -> Result:
    if text == "off":
        conversation.schema = None
    elif text:
        conversation.schema = schema_from(text)
    if conversation.schema is None:
        return Next.READ, "answers are free; /json FILE or /json {SCHEMA} constrains them"
    return Next.READ, "answers satisfy " + msgspec.json.encode(conversation.schema).decode()


def _undo(conversation: Conversation, _text: str) -> Result:
    question = conversation.undo()
    return Next.READ, "there is nothing to undo" if question is None else f"forgotten: {question.splitlines()[0][:60]}"


def _clear(conversation: Conversation, _text: str) -> Result:
    conversation.clear()
    return Next.READ, "all messages forgotten; system prompt, parameters and schema stay"


def _retry(conversation: Conversation, _text: str) -> Result:
    if conversation.pending is None:
        conversation.pending = conversation.undo()
    return (Next.READ, "there is nothing to ask again") if conversation.pending is None else (Next.RETRY, "")


def _save(conversation: Conversation, text: str) -> Result:
    path = _path(text, "/save")
    conversation.save(path)
    return Next.READ, f"saved to {path}"


def _load(conversation: Conversation, text: str) -> Result:
    path = _path(text, "/load")
    conversation.load(path)
    return Next.READ, f"{len(conversation.messages)} messages from {path}"


def _path(text: str, word: str) -> Path:
    if not text:
        raise ChatError(f"{word} needs a file's name")
    return Path(text).expanduser()


def _help(_conversation: Conversation, _text: str) -> Result:
    width = max(len(usage) for usage, _, _ in _COMMANDS.values())
    lines = [f"{usage:{width}}  {meaning}" for usage, meaning, _ in _COMMANDS.values()]
    return Next.READ, "\n".join([*lines, *_KEYS])


def _leave(_conversation: Conversation, _text: str) -> Result:
    return Next.LEAVE, ""


_Handler = Callable[[Conversation, str], Result]
_COMMANDS: dict[str, tuple[str, str, _Handler]] = {
    "/system": ("/system [TEXT|off]", "show, set or remove the system prompt", _system),
    "/params": ("/params [NAME=VALUE ...]", "show or set fields of the request; NAME= removes one", _params),
    "/json": ("/json [FILE|SCHEMA|off]", "answers that satisfy a JSON schema", _json),
    "/retry": ("/retry", "ask the last question again", _retry),
    "/undo": ("/undo", "forget the last question and its answer", _undo),
    "/clear": ("/clear", "forget all messages", _clear),
    "/save": ("/save FILE", "write the conversation, as a request that curl can send", _save),
    "/load": ("/load FILE", "go on with a saved conversation", _load),
    "/help": ("/help", "this list", _help),
    "/exit": ("/exit", "leave; so do Ctrl-D, and Ctrl-C on an empty line", _leave),
}
_KEYS = (
    'Enter sends, Alt-Enter or Ctrl-J begins a new line, """ begins and ends a text of several lines.',
    "Ctrl-C stops an answer. A question that begins with / is written with two.",
)
