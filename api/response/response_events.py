"""The events of a streamed response. Shapes only.

``sequence_number`` counts them from 0; every event names its item by id and by its place in the output.
"""

from __future__ import annotations

import msgspec

from api.response.openai_types import TokenLogprob
from api.response.response_types import OutputItem, OutputText, ReasoningText, Response, SummaryText


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The response was created, is in progress, completed, incomplete, or failed."""

    type: str
    sequence_number: int
    response: Response


class ItemEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An item was added or is done."""

    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A content part was added or is done."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    part: OutputText | ReasoningText


class SummaryPartEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The one part of a summary was added or is done."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int = 0
    part: SummaryText


class TextDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """More text for the reader."""

    type: str = "response.output_text.delta"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    delta: str
    logprobs: list[TokenLogprob]


class TextDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All of the text for the reader."""

    type: str = "response.output_text.done"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """More reasoning."""

    type: str = "response.reasoning_text.delta"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    delta: str


class ReasoningDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All of the reasoning."""

    type: str = "response.reasoning_text.done"
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int = 0
    text: str


class SummaryDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """More reasoning where a summary was asked for."""

    type: str = "response.reasoning_summary_text.delta"
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int = 0
    delta: str


class SummaryDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    type: str = "response.reasoning_summary_text.done"
    sequence_number: int
    item_id: str
    output_index: int
    summary_index: int = 0
    text: str


class ArgumentsDeltaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """More of a call's arguments."""

    type: str = "response.function_call_arguments.delta"
    sequence_number: int
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(msgspec.Struct, frozen=True, kw_only=True):
    """All of a call's arguments."""

    type: str = "response.function_call_arguments.done"
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str


StreamEvent = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | SummaryPartEvent
    | TextDeltaEvent
    | TextDoneEvent
    | ReasoningDeltaEvent
    | ReasoningDoneEvent
    | SummaryDeltaEvent
    | SummaryDoneEvent
    | ArgumentsDeltaEvent
    | ArgumentsDoneEvent
)
