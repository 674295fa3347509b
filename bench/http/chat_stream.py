"""One streamed chat completion as it arrives: decodes chunks, stamps them, and says how the stream ended.

Knows the OpenAI chunk format and the ways in which endpoints depart from it; knows no sockets and no statistics.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.errors import StreamError
from bench.http.sse import EventSplitter


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


# A union of Raw and None would accept only null (msgspec 0.22), so "absent" is the raw text of null.
_NULL = msgspec.Raw(b"null")


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = _NULL


class _ErrorDetail(msgspec.Struct):
    message: str | None = None
    detail: str | None = None
    error: msgspec.Raw = _NULL


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_ERROR_TEXT_LIMIT = 300
_BODY_LIMIT = 64 * 1024


class StreamRecorder:
    """Collects one response. The connection sets ``sent_ns`` and calls ``on_head``, ``on_body`` and ``on_end``.

    All times are ns of the client's clock.
    """

    __slots__ = (
        "_body",
        "_splitter",
        "_tokens",
        "cached_tokens",
        "chunk_ns",
        "completion_tokens",
        "done",
        "fault",
        "finish_reason",
        "first_answer_ns",
        "headers_ns",
        "prompt_tokens",
        "sent_ns",
        "status",
        "text",
    )

    def __init__(self) -> None:
        self.chunk_ns: list[int] = []
        self.text: list[str] = []
        self.sent_ns = 0
        self.headers_ns = 0
        self.first_answer_ns = 0
        self.status = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.finish_reason: str | None = None
        self.done = False
        self.fault: StreamError | None = None
        self._tokens: list[int] = []
        self._splitter: EventSplitter | None = None
        self._body = bytearray()

    def on_head(self, status: int, content_type: str, now_ns: int) -> None:
        """Status line and headers are in."""
        self.status = status
        self.headers_ns = now_ns
        if status == 200 and content_type.startswith("text/event-stream"):
            self._splitter = EventSplitter()

    def on_body(self, data: bytes, now_ns: int) -> None:
        """A piece of the body that arrived at ``now_ns``."""
        if self._splitter is None:
            self._body += data[: _BODY_LIMIT - len(self._body)]
            return
        for event in self._splitter.feed(data):
            if event == b"[DONE]":
                self.done = True
            else:
                self._on_chunk(event, now_ns)

    def on_end(self) -> None:
        """The response is complete as HTTP sees it; decide whether it is complete as a chat stream."""
        if self.fault is not None:
            return
        if self.status != 200:
            self.fault = StreamError(f"http_{self.status}", f"HTTP {self.status}: {error_text(bytes(self._body))}")
        elif self._splitter is None:
            self.fault = StreamError("not_streaming", "the endpoint ignored stream=true and sent one whole body")
        elif self.finish_reason is None and not self.done:
            self.fault = StreamError("cut", f"no finish_reason after {len(self.chunk_ns)} chunks")

    def _on_chunk(self, event: bytes, now_ns: int) -> None:
        try:
            chunk = _decode_chunk(event)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StreamError("bad_chunk", f"the endpoint sent a chunk that is not a chat chunk: {error}") from error
        if bytes(chunk.error) != b"null":
            raise StreamError("stream_error", f"the endpoint reported an error mid-stream: {error_text(event)}")
        if (usage := chunk.usage) is not None:
            self._on_usage(usage)
        for choice in chunk.choices:
            self._on_choice(choice, now_ns)

    def _on_usage(self, usage: _Usage) -> None:
        self.prompt_tokens = usage.prompt_tokens
        self.completion_tokens = usage.completion_tokens
        if usage.prompt_tokens_details is not None:
            self.cached_tokens = usage.prompt_tokens_details.cached_tokens

    def _on_choice(self, choice: _Choice, now_ns: int) -> None:
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
        answer, thought = choice.text, None
        if (delta := choice.delta) is not None:
            answer, thought = delta.content, delta.reasoning_content or delta.reasoning
        if not answer and not thought:
            return
        self.chunk_ns.append(now_ns)
        self._tokens.append(-1 if self.completion_tokens is None else self.completion_tokens)
        if answer:
            self.text.append(answer)
            if not self.first_answer_ns:
                self.first_answer_ns = now_ns

    def arrivals(self) -> NDArray[np.int64]:
        """Arrival of each chunk with text, int64 [chunks], ns."""
        return np.array(self.chunk_ns, np.int64)

    def chunk_tokens(self) -> NDArray[np.int64] | None:
        """Tokens that each chunk carried, int64 [chunks], from running usage; None where the endpoint sends none.

        A token whose text was held back is counted with the chunk that showed it, so every token is counted once.
        """
        if not self._tokens or min(self._tokens) < 0:
            return None
        counts = np.array([0, *self._tokens], np.int64)
        return counts[1:] - counts[:-1]


def error_text(body: bytes) -> str:
    """The message inside an error body in any of the usual shapes, shortened to one line."""
    raw = body
    for _ in range(3):
        try:
            detail = msgspec.json.decode(raw, type=_ErrorDetail)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            break
        if bytes(detail.error) != b"null":
            raw = bytes(detail.error)
            continue
        raw = (detail.message or detail.detail or body.decode("utf-8", "replace")).encode()
        break
    text = " ".join(raw.decode("utf-8", "replace").split())
    return text[:_ERROR_TEXT_LIMIT] or "(empty body)"
