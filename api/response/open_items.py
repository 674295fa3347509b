"""The three kinds of output items while they grow: text in, the item's own events out. Knows no other item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from api.response.openai_types import TokenLogprob
from api.response.response_events import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemEvent,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    StreamEvent,
    SummaryDeltaEvent,
    SummaryDoneEvent,
    SummaryPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from api.response.response_types import (
    CallItem,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


@dataclass(frozen=True, slots=True)
class Place:
    """An item's id, its place in the output, and ``number``, which numbers events."""

    item_id: str
    output_index: int
    number: Callable[[], int]

    def event(self, kind: str, item: OutputItem) -> ItemEvent:
        """The event that the item was added or is done."""
        return ItemEvent(
            type=f"response.output_item.{kind}",
            sequence_number=self.number(),
            output_index=self.output_index,
            item=item,
        )


class OpenItem(Protocol):
    """One growing item: ``begin`` once, then text of its own kind, then ``end`` once."""

    def begin(self) -> list[StreamEvent]:
        """The events that announce it, empty."""
        ...

    def end(self, status: str) -> list[StreamEvent]:
        """The events that tell all of it again."""
        ...

    def item(self, status: str) -> OutputItem:
        """The item with what came so far."""
        ...


@dataclass(slots=True)
class OpenMessage:
    """A message of one text."""

    place: Place
    _pieces: list[str] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)

    def begin(self) -> list[StreamEvent]:
        """The item without content, then its part without text."""
        place = self.place
        empty = MessageItem(id=place.item_id, status=IN_PROGRESS, content=[])
        return [place.event("added", empty), self._part("added", OutputText(""))]

    def add(self, text: str, logprobs: list[TokenLogprob]) -> list[StreamEvent]:
        """More text and the entries of its tokens."""
        self._pieces.append(text)
        self._logprobs += logprobs
        place = self.place
        return [
            TextDeltaEvent(
                sequence_number=place.number(),
                item_id=place.item_id,
                output_index=place.output_index,
                delta=text,
                logprobs=logprobs,
            )
        ]

    def end(self, status: str) -> list[StreamEvent]:
        """Text, part and item."""
        place, text = self.place, self._text()
        done = TextDoneEvent(
            sequence_number=place.number(),
            item_id=place.item_id,
            output_index=place.output_index,
            text=text.text,
            logprobs=text.logprobs,
        )
        return [done, self._part("done", text), place.event("done", self.item(status))]

    def item(self, status: str) -> MessageItem:
        """The message so far."""
        return MessageItem(id=self.place.item_id, status=status, content=[self._text()])

    def _text(self) -> OutputText:
        return OutputText("".join(self._pieces), logprobs=list(self._logprobs))

    def _part(self, kind: str, part: OutputText) -> PartEvent:
        place = self.place
        return PartEvent(
            type=f"response.content_part.{kind}",
            sequence_number=place.number(),
            item_id=place.item_id,
            output_index=place.output_index,
            part=part,
        )


@dataclass(slots=True)
class OpenReasoning:
    """Reasoning, told as content or, where a summary was asked for, as that: clients show nothing else then."""

    place: Place
    as_summary: bool
    _pieces: list[str] = field(default_factory=list)

    def begin(self) -> list[StreamEvent]:
        """The item without content, then its part without text."""
        empty = ReasoningItem(id=self.place.item_id, status=IN_PROGRESS)
        return [self.place.event("added", empty), self._part("added", "")]

    def add(self, text: str) -> list[StreamEvent]:
        """More reasoning."""
        self._pieces.append(text)
        place = self.place
        kind = SummaryDeltaEvent if self.as_summary else ReasoningDeltaEvent
        number = place.number()
        return [kind(sequence_number=number, item_id=place.item_id, output_index=place.output_index, delta=text)]

    def end(self, status: str) -> list[StreamEvent]:
        """Text, part and item."""
        place, text = self.place, "".join(self._pieces)
        kind = SummaryDoneEvent if self.as_summary else ReasoningDoneEvent
        number = place.number()
        done = kind(sequence_number=number, item_id=place.item_id, output_index=place.output_index, text=text)
        return [done, self._part("done", text), place.event("done", self.item(status))]

    def item(self, status: str) -> ReasoningItem:
        """The reasoning so far."""
        text, item_id = "".join(self._pieces), self.place.item_id
        if self.as_summary:
            return ReasoningItem(id=item_id, status=status, summary=[SummaryText(text)])
        return ReasoningItem(id=item_id, status=status, content=[ReasoningText(text)])

    def _part(self, kind: str, text: str) -> PartEvent | SummaryPartEvent:
        place = self.place
        if self.as_summary:
            return SummaryPartEvent(
                type=f"response.reasoning_summary_part.{kind}",
                sequence_number=place.number(),
                item_id=place.item_id,
                output_index=place.output_index,
                part=SummaryText(text),
            )
        return PartEvent(
            type=f"response.content_part.{kind}",
            sequence_number=place.number(),
            item_id=place.item_id,
            output_index=place.output_index,
            part=ReasoningText(text),
        )


@dataclass(slots=True)
class OpenCall:
    """A call of the function ``name``, whose output comes back under ``call_id``."""

    place: Place
    name: str
    call_id: str
    _pieces: list[str] = field(default_factory=list)

    def begin(self) -> list[StreamEvent]:
        """The item without arguments."""
        return [self.place.event("added", self.item(IN_PROGRESS))]

    def add(self, text: str) -> list[StreamEvent]:
        """More of the arguments."""
        self._pieces.append(text)
        place = self.place
        return [
            ArgumentsDeltaEvent(
                sequence_number=place.number(), item_id=place.item_id, output_index=place.output_index, delta=text
            )
        ]

    def end(self, status: str) -> list[StreamEvent]:
        """Arguments and item."""
        place = self.place
        done = ArgumentsDoneEvent(
            sequence_number=place.number(),
            item_id=place.item_id,
            output_index=place.output_index,
            name=self.name,
            arguments="".join(self._pieces),
        )
        return [done, place.event("done", self.item(status))]

    def item(self, status: str) -> CallItem:
        """The call so far."""
        arguments = "".join(self._pieces)
        return CallItem(id=self.place.item_id, status=status, call_id=self.call_id, name=self.name, arguments=arguments)
