"""The JSON of ``/v1/messages`` (Anthropic's): the message, its blocks, the events of a stream, errors. Shapes only."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.error_answer import ErrorAnswer

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text for the reader."""

    text: str


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """Reasoning. Nothing is signed."""

    thinking: str
    signature: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call of a tool. The input of a call that was cut off is empty here; a stream shows what came of it."""

    id: str
    name: str
    input: Annotated[Any, Meta(description="An object that the tool's schema describes.")]


OutBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageUsage(msgspec.Struct, frozen=True):
    """Token counts; those that came from the prefix cache are told apart only where the operator lets answers tell."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class AnsweredMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """An answer. ``stop_reason`` is end_turn, max_tokens, stop_sequence or tool_use; null while it is not known."""

    id: str
    role: str = "assistant"
    model: str
    content: list[OutBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TextDelta(msgspec.Struct, frozen=True, tag_field="type", tag="text_delta"):
    """More text."""

    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, tag_field="type", tag="thinking_delta"):
    """More reasoning."""

    thinking: str


class InputDelta(msgspec.Struct, frozen=True, tag_field="type", tag="input_json_delta"):
    """More of a call's input, as JSON text."""

    partial_json: str


class MessageStart(msgspec.Struct, frozen=True, tag_field="type", tag="message_start"):
    """The message begins."""

    message: AnsweredMessage


class BlockStart(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_start"):
    """A block begins, empty."""

    index: int
    content_block: OutBlock


class BlockDelta(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_delta"):
    """More of a block."""

    index: int
    delta: TextDelta | ThinkingDelta | InputDelta


class BlockStop(msgspec.Struct, frozen=True, tag_field="type", tag="content_block_stop"):
    """A block is whole."""

    index: int


class MessageEnd(msgspec.Struct, frozen=True):
    """Why the message ended."""

    stop_reason: str | None
    stop_sequence: str | None


class MessageDelta(msgspec.Struct, frozen=True, tag_field="type", tag="message_delta"):
    """How the message ended, and its token counts."""

    delta: MessageEnd
    usage: MessageUsage


class MessageStop(msgspec.Struct, frozen=True, tag_field="type", tag="message_stop"):
    """The stream's end."""


class MessageErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong; ``param`` is the dotted name of the first bad field."""

    type: str
    message: str
    param: str | None


class MessageError(msgspec.Struct, frozen=True, tag_field="type", tag="error"):
    """The body of a refusal or failure, and the last event of a stream that cannot go on."""

    error: MessageErrorInfo


class TokenCount(msgspec.Struct, frozen=True):
    """How many tokens a conversation's prompt has."""

    input_tokens: int


MessageEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | MessageError


def message_error(answer: ErrorAnswer) -> MessageError:
    """A failure in this interface's shape."""
    found = answer.as_struct().error
    kind = _ERROR_TYPES.get(answer.status, "invalid_request_error" if answer.status < 500 else "api_error")
    return MessageError(MessageErrorInfo(type=kind, message=found.message, param=found.param))
