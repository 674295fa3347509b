"""The bytes of a chat answer -> pieces of it, as OpenAI's endpoints and those like them send them.

Knows whole bodies, streams of events and error bodies; opens nothing and shows nothing. What an endpoint sends is
untrusted: of bounded size, and of any shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from chat.errors import AnswerError
from chat.plain_text import one_line

MAX_EVENT_BYTES = 16 * 2**20
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding foreign bytes raises; the last for nesting without end."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens of one request, as the endpoint counts them; None where it does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that were not computed again."""
        return None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens


_NULL = msgspec.Raw(b"null")


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw = _NULL


class _ErrorBody(msgspec.Struct):
    message: str | None = None
    detail: str | None = None
    error: msgspec.Raw = _NULL


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind. A tool call's name and each bit of its arguments are pieces of their own."""

    kind: Literal["content", "reasoning", "tool_name", "tool_arguments"]
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped: ``stop``, ``length``, ``tool_calls`` or what else an endpoint says."""

    reason: str


Event = Piece | Finish | Usage


def data_of_events(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each server-sent event in a body that comes in blocks. Raises AnswerError above MAX_EVENT_BYTES."""
    rest, data = b"", list[bytes]()
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) + sum(map(len, data)) > MAX_EVENT_BYTES:
            raise AnswerError(f"the endpoint sent an event of more than {MAX_EVENT_BYTES} bytes")
        for line in (raw.removesuffix(b"\r") for raw in lines):
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data.clear()


def read_stream(blocks: Iterable[bytes]) -> Iterator[Event]:
    """The events of a streamed answer. Raises AnswerError for an error event, no JSON, or an end too early."""
    finished = False
    for data in data_of_events(blocks):
        if data == b"[DONE]":
            return
        for event in _read(data):
            finished = finished or isinstance(event, Finish)
            yield event
    if not finished:
        raise AnswerError("the connection ended before the answer did")


def read_whole(body: bytes) -> Iterator[Event]:
    """The events of an answer that came in one piece. Raises AnswerError."""
    yield from _read(body)


def _read(data: bytes) -> Iterator[Event]:
    try:
        chunk = msgspec.json.decode(data, type=_Chunk)
    except NOT_JSON as error:
        raise AnswerError(f"the endpoint sent what is no chat answer: {one_line(str(error))}") from error
    if bytes(chunk.error) != b"null":
        raise AnswerError(error_text(data))
    for choice in chunk.choices[:1]:
        message = choice.delta or choice.message
        if message is not None:
            yield from _pieces(message)
        if choice.finish_reason:
            yield Finish(one_line(choice.finish_reason, 40))
    if chunk.usage is not None:
        yield chunk.usage


def _pieces(message: _Message) -> Iterator[Piece]:
    if thought := message.reasoning_content or message.reasoning:
        yield Piece("reasoning", thought)
    if said := message.content or message.refusal:
        yield Piece("content", said)
    for call in message.tool_calls or ():
        if call.function is not None:
            if call.function.name:
                yield Piece("tool_name", call.function.name)
            if call.function.arguments:
                yield Piece("tool_arguments", call.function.arguments)


def error_text(body: bytes) -> str:
    """The message in an error body of any usual shape, on one line; the body itself where there is none."""
    raw = body
    for _ in range(3):
        try:
            found = msgspec.json.decode(raw, type=_ErrorBody)
        except NOT_JSON:
            break
        if bytes(found.error) == b"null":
            return one_line(found.message or found.detail or raw.decode("utf-8", "replace"))
        raw = bytes(found.error)
    return one_line(raw.decode("utf-8", "replace").strip('"')) or "no reason was given"
