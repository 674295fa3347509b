"""The JSON of ``/v1/responses``: the response and its items. Shapes only.

Key order is the order on the wire. What a response repeats of its request stands here as it was given.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.response.openai_types import TokenLogprob


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text for the reader. ``annotations`` is always empty."""

    text: str
    annotations: list[str] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """Reasoning as the model wrote it."""

    text: str


class SummaryText(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    """The same where a summary was asked for."""

    text: str


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="message"):
    """What the assistant says. ``status`` is in_progress, completed or incomplete, as in all items."""

    id: str
    status: str
    role: str = "assistant"
    content: list[OutputText]


class ReasoningItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="reasoning"):
    """What the model thought before it."""

    id: str
    status: str
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []


class CallItem(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="function_call"):
    """A call of a function; ``arguments`` is JSON text. Its output is sent back under ``call_id``."""

    id: str
    status: str
    call_id: str
    name: str
    arguments: str


OutputItem = MessageItem | ReasoningItem | CallItem


class InputTokensDetails(msgspec.Struct, frozen=True):
    """``cached_tokens`` came from the prefix cache; 0 unless the operator lets answers tell."""

    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """How many of the output tokens were reasoning."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    """Why a stream that had begun failed."""

    code: str
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is incomplete."""

    reason: str = "max_output_tokens"


class ReasoningEcho(msgspec.Struct, frozen=True):
    """What was asked of the reasoning."""

    effort: str | None
    summary: str | None


Given = Annotated[Any, Meta(description="As given in the request, or the default.")]


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A response, whole or as it stands when an event is sent; the fields from ``background`` on repeat the request.

    ``instructions``, ``text``, ``tools`` and ``tool_choice`` may be ``msgspec.Raw``: JSON that was encoded before.
    """

    id: str
    object: str = "response"
    created_at: int
    completed_at: int | None = None
    status: str = "in_progress"
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    background: bool = False
    frequency_penalty: float
    instructions: Given = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: None = None
    prompt_cache_key: str | None = None
    reasoning: ReasoningEcho
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: Given
    tool_choice: Given
    tools: Given
    top_logprobs: int
    top_p: float
    truncation: str = "disabled"
    user: str | None = None
