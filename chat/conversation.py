"""What is sent with each question: the messages so far, the system prompt, the sampling values, the schema.

Its saved form is the body of a chat request, so that ``curl -d @FILE`` can send it. Knows no HTTP and no terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from chat.errors import ChatError

RESERVED = frozenset({"messages", "model", "stream", "stream_options", "response_format", "n"})
"""Fields of a request that are not for ``/params``: others set them, or an answer would not be one text."""

Message = dict[str, Any]


@dataclass(slots=True)
class Conversation:
    """``messages`` are those of user and assistant in turn. ``pending`` is a question that got no answer at all."""

    model: str
    system: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    schema: dict[str, Any] | None = None
    messages: list[Message] = field(default_factory=list)
    pending: str | None = None

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The request for an answer to the last message."""
        streaming: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return self.saved() | streaming

    def saved(self) -> dict[str, Any]:
        """The conversation as a plain request."""
        system: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        body: dict[str, Any] = {"model": self.model, "messages": system + self.messages, **self.params}
        if self.schema is not None:
            demand = {"name": "answer", "schema": self.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": demand}
        return body

    def ask(self, question: str) -> None:
        """Begin a turn."""
        self.pending = None
        self.messages.append({"role": "user", "content": question})

    def answer(self, message: Message | None) -> None:
        """End the turn. Without a message, the question is taken back and kept for ``retry``."""
        if message is not None:
            self.messages.append(message)
        else:
            self.pending = str(self.messages.pop()["content"])

    def undo(self) -> str | None:
        """Forget the last answered question and its answer; the question, or None when there is none.

        A pending question stays: it may only have lacked the room that this makes.
        """
        while self.messages:
            if (last := self.messages.pop())["role"] == "user":
                return str(last["content"])
        return None

    def clear(self) -> None:
        """Forget all messages; the rest stays."""
        self.messages, self.pending = [], None

    def set_param(self, assignment: str) -> None:
        """``name=value`` with a JSON value or a word; ``name=`` takes it out. Raises ChatError."""
        name, equals, text = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise ChatError(f"{assignment!r} is no parameter; write name=value, such as temperature=0.2")
        if name in RESERVED:
            raise ChatError(f"{name} cannot be set here; it is the conversation's own")
        if not text:
            self.params.pop(name, None)
            return
        try:
            self.params[name] = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            self.params[name] = text

    def save(self, path: Path) -> None:
        """Write it to a file. Raises ChatError, also where the file exists and holds something else."""
        if path.exists() and not _is_conversation(path):
            raise ChatError(f"{path} exists and is no conversation; name another file")
        text = msgspec.json.format(msgspec.json.encode(self.saved()), indent=2) + b"\n"
        try:
            # The old file stays whole until the new one is.
            part = path.with_name(path.name + ".part")
            part.write_bytes(text)
            part.replace(path)
        except OSError as error:
            raise ChatError(f"{path} cannot be written: {error.strerror or error}") from error

    def load(self, path: Path) -> None:
        """Go on with a saved conversation; the model stays. Raises ChatError and then changes nothing."""
        body = _read_object(path)
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise ChatError(f"{path} is no conversation: it needs messages, each with a role and a content")
        schema = _schema_of(body.get("response_format"))
        first = messages[0] if messages else {}
        is_system = first.get("role") == "system"
        self.system = str(first["content"]) if is_system else None
        self.messages, self.pending = messages[is_system:], None
        if self.messages and self.messages[-1]["role"] == "user":
            self.pending = str(self.messages.pop()["content"])
        self.params = {name: value for name, value in body.items() if name not in RESERVED}
        self.schema = schema


def schema_from(text: str) -> dict[str, Any]:
    """A JSON schema from a file's name or written out. Raises ChatError."""
    if not text.lstrip().startswith("{"):
        return _read_object(Path(text).expanduser())
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise ChatError(f"the schema is not valid JSON: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ChatError(f"{path} cannot be read: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChatError(f"{path} is not a JSON object: {error}") from error


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        return False
    return isinstance(value.get("content"), str) or (value.get("content") is None and "tool_calls" in value)


def _is_conversation(path: Path) -> bool:
    try:
        return isinstance(_read_object(path).get("messages"), list)
    except ChatError:
        return False


def _schema_of(response_format: object) -> dict[str, Any] | None:
    if isinstance(response_format, dict) and isinstance(response_format.get("json_schema"), dict):
        schema = response_format["json_schema"].get("schema")
        return schema if isinstance(schema, dict) else None
    return None
