"""One answer as items: which item grows, which are done, and the events that tell of it.

Streamed and plain responses are made from the same items, so they cannot differ. Knows no response around the output,
no sampling and no bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta, ReasoningDelta

from api.response.open_items import (
    COMPLETED,
    INCOMPLETE,
    OpenCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    Place,
)
from api.response.openai_types import TokenLogprob
from api.response.response_events import StreamEvent
from api.response.response_types import OutputItem

Kind = TypeVar("Kind", OpenMessage, OpenReasoning, OpenCall)


class ResponseOutput:
    """The output of one response. ``number`` numbers its events, ``new_id`` makes an id from a prefix.

    A delta of another kind than the open item's ends that item and begins one. The pieces of a call's arguments come
    between its start and the next delta of another kind.
    """

    def __init__(self, number: Callable[[], int], new_id: Callable[[str], str], *, as_summary: bool) -> None:
        self._number = number
        self._new_id = new_id
        self._as_summary = as_summary
        self._done: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._events: list[StreamEvent] = []  # not yet handed on

    @property
    def items(self) -> list[OutputItem]:
        """All items; one that still grows is incomplete."""
        return [*self._done, *([] if self._open is None else [self._open.item(INCOMPLETE)])]

    def add(self, deltas: Sequence[AnswerDelta], logprobs: list[TokenLogprob]) -> list[StreamEvent]:
        """The events of one update: its deltas, and the entries of its tokens.

        Entries go with the first text for the reader; without any, to the message that is open, if one is.
        """
        for delta in deltas:
            match delta:
                case ContentDelta(text):
                    self._events += self._message().add(text, logprobs)
                    logprobs = []
                case ReasoningDelta(text):
                    self._events += self._reasoning().add(text)
                case CallStarted(_, name):
                    self._begin(OpenCall(self._next_place("fc_"), name, self._new_id("call_")))
                case ArgumentsDelta(_, text) if isinstance(self._open, OpenCall):
                    self._events += self._open.add(text)
                case ArgumentsDelta():
                    raise ValueError("arguments of a call that is not the last one begun")
        if logprobs and isinstance(self._open, OpenMessage):
            self._events += self._open.add("", logprobs)
        return self._handed_on()

    def finish(self, *, complete: bool) -> list[StreamEvent]:
        """The events of the end. An answer of nothing is an empty message; an answer cut off ends in a cut-off item."""
        if not self._done and self._open is None:
            self._message()
        self._end(COMPLETED if complete else INCOMPLETE)
        return self._handed_on()

    def _message(self) -> OpenMessage:
        if isinstance(self._open, OpenMessage):
            return self._open
        return self._begin(OpenMessage(self._next_place("msg_")))

    def _reasoning(self) -> OpenReasoning:
        if isinstance(self._open, OpenReasoning):
            return self._open
        return self._begin(OpenReasoning(self._next_place("rs_"), self._as_summary))

    def _next_place(self, prefix: str) -> Place:
        """The place of the next item; ends the open one, whose events come first."""
        self._end(COMPLETED)
        return Place(self._new_id(prefix), len(self._done), self._number)

    def _begin(self, item: Kind) -> Kind:
        self._events += item.begin()
        self._open = item
        return item

    def _end(self, status: str) -> None:
        if self._open is not None:
            self._events += self._open.end(status)
            self._done.append(self._open.item(status))
            self._open = None

    def _handed_on(self) -> list[StreamEvent]:
        events, self._events = self._events, []
        return events
