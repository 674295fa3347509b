"""The answers of ``/v1/messages`` (Anthropic's): events and bodies. Shapes only; ``Generation`` brings deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec import Raw
from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta, ReasoningDelta

from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord
from api.response.generation import Finish, Update, joined_texts
from api.response.message_types import (
    AnsweredMessage,
    BlockDelta,
    BlockStart,
    BlockStop,
    InputDelta,
    MessageDelta,
    MessageEnd,
    MessageEvent,
    MessageStart,
    MessageStop,
    MessageUsage,
    OutBlock,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    message_error,
)
from api.response.renderer import AnswerOptions
from api.response.sse import encode_json, named_event

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


@dataclass(slots=True)
class _Block:
    """A block that grows: ``empty`` says its kind, ``pieces`` are its text."""

    empty: OutBlock
    pieces: list[str] = field(default_factory=list)

    def whole(self) -> OutBlock:
        text = "".join(self.pieces)
        match self.empty:
            case TextBlock():
                return TextBlock(text)
            case ThinkingBlock():
                return ThinkingBlock(text)
            case ToolUseBlock(call_id, name, _):
                return ToolUseBlock(call_id, name, _object(text))


class MessageRenderer:
    """One message, which has one choice. ``new_id`` makes an id from a prefix."""

    def __init__(self, record: RequestRecord, options: AnswerOptions, new_id: Callable[[str], str]) -> None:
        self._record = record
        self._options = options
        self._new_id = new_id
        self._blocks: list[_Block] = []
        self._num_tokens = 0
        self._finish: Finish | None = None

    def opening(self) -> list[bytes]:
        """The message, empty."""
        return [_event(MessageStart(self._message([])))]

    def chunks(self, update: Update) -> list[bytes]:
        """The events of the blocks that one update brought, went on with or ended."""
        return [_event(event) for event in self._take(update)]

    def closing(self) -> list[bytes]:
        """How it ended."""
        whole = self._message([])
        end = MessageEnd(whole.stop_reason, whole.stop_sequence)
        return [_event(MessageDelta(end, whole.usage)), _event(MessageStop())]

    def failed(self, error: ErrorAnswer) -> list[bytes]:
        """The error as the last event."""
        return [_event(message_error(error))]

    def body(self, updates: Sequence[Update]) -> bytes:
        """The plain answer."""
        for update in joined_texts(updates):
            self._take(update)
        return encode_json(self._message([block.whole() for block in self._blocks]))

    def _take(self, update: Update) -> list[MessageEvent]:
        self._num_tokens = update.num_tokens
        self._finish = update.finish
        events = [event for delta in update.deltas for event in self._grown(delta)]
        if update.finish is not None and self._blocks:
            events.append(BlockStop(len(self._blocks) - 1))
        return events

    def _grown(self, delta: AnswerDelta) -> list[MessageEvent]:
        match delta:
            case ContentDelta(text):
                return [*self._block(TextBlock("")), self._more(text, TextDelta(text))]
            case ReasoningDelta(text):
                return [*self._block(ThinkingBlock("")), self._more(text, ThinkingDelta(text))]
            case CallStarted(_, name):
                return self._begun(ToolUseBlock(self._new_id("toolu_"), name, {}))
            case ArgumentsDelta(_, text):
                return [self._more(text, InputDelta(text))]

    def _block(self, empty: OutBlock) -> list[MessageEvent]:
        """Nothing where a block of this kind is open, else the events of its beginning."""
        if self._blocks and type(self._blocks[-1].empty) is type(empty):
            return []
        return self._begun(empty)

    def _begun(self, empty: OutBlock) -> list[MessageEvent]:
        place = len(self._blocks)
        self._blocks.append(_Block(empty))
        start = BlockStart(place, empty)
        return [BlockStop(place - 1), start] if place else [start]

    def _more(self, text: str, delta: TextDelta | ThinkingDelta | InputDelta) -> BlockDelta:
        self._blocks[-1].pieces.append(text)
        return BlockDelta(len(self._blocks) - 1, delta)

    def _message(self, content: list[OutBlock]) -> AnsweredMessage:
        reason, sequence = self._stop()
        return AnsweredMessage(
            id=self._options.answer_id,
            model=self._record.model,
            content=content,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=self._usage(),
        )

    def _stop(self) -> tuple[str | None, str | None]:
        finish = self._finish
        if finish is None:
            return None, None
        if finish.reason == "stop" and isinstance(finish.stop_reason, str):
            return "stop_sequence", finish.stop_reason
        if finish.reason == "stop" and any(isinstance(block.empty, ToolUseBlock) for block in self._blocks):
            return "tool_use", None
        return _STOP_REASONS[finish.reason], None

    def _usage(self) -> MessageUsage:
        cached = (self._record.cached_tokens or 0) if self._options.cached_tokens else 0
        return MessageUsage(self._record.num_prompt_tokens - cached, self._num_tokens, cached)


def _event(event: MessageEvent) -> bytes:
    return named_event(str(event.__struct_config__.tag), event)


def _object(text: str) -> Raw | dict[str, object]:
    try:
        msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):  # cut off
        return {}
    return Raw(text.encode())
