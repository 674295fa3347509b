"""The input items of ``POST /v1/responses`` as they arrive: one struct per type.

Unknown keys in items and parts are ignored, because clients send back whole items of earlier answers. Knows no
message of a chat (``api.request.response_messages``) and no field beside the items.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from runtime.errors import RequestError

MAX_ITEMS = 4096
_NOT_KEPT = "this server keeps no items, so none can be referred to: send the item itself (clients: store false)"


class InputTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    """Text from the user's side. Several parts of one message are joined by a line feed."""

    text: str


class OutputTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of an earlier answer."""

    text: str


class InputRefusalPart(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """What an assistant said instead of an answer; treated as its text."""

    refusal: str


class SummaryTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    """A summary of reasoning."""

    text: str


class ReasoningTextPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """Reasoning as the model wrote it."""

    text: str


MessagePart = InputTextPart | OutputTextPart | InputRefusalPart


class InputMessage(msgspec.Struct, frozen=True, tag_field="type", tag="message"):
    """A message. ``type`` may be absent."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[MessagePart]


class FunctionCallItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call"):
    """A call that an earlier answer made. ``arguments`` are JSON text; empty means none."""

    call_id: str
    name: str
    arguments: str


class FunctionCallOutputItem(msgspec.Struct, frozen=True, tag_field="type", tag="function_call_output"):
    """What a call returned."""

    call_id: str
    output: str | list[InputTextPart | OutputTextPart]


class ReasoningInputItem(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning"):
    """Reasoning of an earlier answer: its text, or else its summary."""

    content: list[ReasoningTextPart] | None = None
    summary: list[SummaryTextPart] | None = None


InputItem = InputMessage | FunctionCallItem | FunctionCallOutputItem | ReasoningInputItem
InputItems = Annotated[list[InputItem], Meta(min_length=1, max_length=MAX_ITEMS)]


def with_types(items: object) -> object:
    """``items`` with the type of messages that leave it out. Raises RequestError for a reference to a kept item."""
    if not isinstance(items, list):
        return items
    return [_with_type(item, index) for index, item in enumerate(items)]


def _with_type(item: Any, index: int) -> Any:  # noqa: ANN401 - straight from the client
    if not isinstance(item, dict):
        return item
    given = item.get("type")
    if given == "item_reference" or (given is None and "id" in item and "role" not in item):
        raise RequestError(f"input.{index}: {_NOT_KEPT}", f"input.{index}")
    return {**item, "type": "message"} if given is None else item
