"""The messages of a chat request, as they arrive: one struct per role. Knows no template and no field beside them.

Unknown keys in messages are ignored, as vLLM does: clients send back what servers once added. Those of text parts are
kept for templates that read parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

MAX_MESSAGES = 4096


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A piece of text. Several parts of one message are joined by a line feed."""

    text: str


class KeyedTextPart(TextPart, frozen=True, tag="text"):
    """A text part and the other keys that the client gave it; no body is read as one (``with_part_keys``)."""

    others: dict[str, Any]


class RefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """What an assistant said instead of an answer; treated as its text."""

    refusal: str


TextContent = str | list[TextPart]
_PART_KEYS = frozenset({"type", "text"})


class FunctionCall(msgspec.Struct, frozen=True):
    """A function's name and its arguments as JSON text (empty means no arguments)."""

    name: str
    arguments: str = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that an assistant made in an earlier turn."""

    function: FunctionCall
    id: str | None = None
    type: str = "function"


class SystemMessage(msgspec.Struct, frozen=True, tag_field="role", tag="system"):
    """Instructions. Any number of them, anywhere, in the order received."""

    content: TextContent
    name: str | None = None


class DeveloperMessage(msgspec.Struct, frozen=True, tag_field="role", tag="developer"):
    """Instructions in newer clients' spelling; a system message unless the template knows the role."""

    content: TextContent
    name: str | None = None


class UserMessage(msgspec.Struct, frozen=True, tag_field="role", tag="user"):
    """What the user says."""

    content: TextContent
    name: str | None = None


class AssistantMessage(msgspec.Struct, frozen=True, tag_field="role", tag="assistant"):
    """An earlier answer. ``content`` may be missing only beside ``tool_calls`` or ``function_call``."""

    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class ToolMessage(msgspec.Struct, frozen=True, tag_field="role", tag="tool"):
    """The result of a tool call."""

    content: TextContent
    tool_call_id: str
    name: str | None = None


class FunctionMessage(msgspec.Struct, frozen=True, tag_field="role", tag="function"):
    """The result of a function call in the deprecated spelling."""

    content: str
    name: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
Messages = Annotated[
    list[Message], Meta(min_length=1, max_length=MAX_MESSAGES, description="The conversation so far, in order.")
]


def with_part_keys(messages: Sequence[Message], given: object) -> list[Message]:
    """``messages`` with what their structs do not hold of the text parts they were made from, ``given`` as JSON."""
    if not isinstance(given, list) or len(given) != len(messages):
        return list(messages)
    return [_with_part_keys(message, of) for message, of in zip(messages, given, strict=True)]


def _with_part_keys(message: Message, given: Mapping[str, Any]) -> Message:
    if not isinstance(message.content, list):
        return message
    others = [{key: value for key, value in part.items() if key not in _PART_KEYS} for part in given["content"]]
    if not any(others):
        return message
    parts = [
        KeyedTextPart(part.text, more) if more and isinstance(part, TextPart) else part
        for part, more in zip(message.content, others, strict=True)
    ]
    return msgspec.structs.replace(message, content=parts)


def text_of(content: str | list[Any] | None) -> str:
    """A message's content as one string: parts joined by a line feed, nothing as the empty string."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)
