"""The body of ``POST /v1/responses`` as it arrives: every known field with its type and range.

Knows neither defaults nor how a chat request says the same (``api.request.responses_to_chat``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.request.chat import ReasoningEffort
from api.request.response_items import InputItems
from api.request.sampling_fields import MAX_TOP_LOGPROBS, OnlyRefused, SamplingFields
from api.request.structured import JsonObjectFormat, SchemaValue, TextFormat
from api.request.tools import MAX_TOOLS, ToolName

MAX_METADATA = 16
LOGPROBS = "message.output_text.logprobs"

_NO_STORE = "this server keeps no responses: send the whole conversation in input"
_OTHER_NAMES = {
    "messages": "use input",
    "max_tokens": "use max_output_tokens",
    "max_completion_tokens": "use max_output_tokens",
    "response_format": "use text.format",
    "reasoning_effort": "use reasoning.effort",
    "logprobs": "use include and top_logprobs",
}
NOT_HERE: Mapping[str, str] = {
    **_OTHER_NAMES,
    "previous_response_id": _NO_STORE,
    "conversation": _NO_STORE,
    "prompt": "this server keeps no prompts: send the text in instructions and input",
    "context_management": "this server does not shorten conversations: send a shorter input",
    "return_token_ids": "only completions have it",
}
"""Field -> why. Ignoring one of these would change what the client gets."""

MetadataKey = Annotated[str, Meta(max_length=64)]
MetadataValue = Annotated[str, Meta(max_length=512)]
ClientId = Annotated[str, Meta(max_length=512)]
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]


class FunctionTool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A function that the model may call. ``parameters`` is the JSON Schema of its arguments' object."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """The one function that must be called."""

    name: ToolName


class FlatSchemaFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that a schema admits."""

    schema: SchemaValue
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, frozen=True):
    """What the answer's text looks like. ``verbosity`` is accepted without effect."""

    format: TextFormat | JsonObjectFormat | FlatSchemaFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(msgspec.Struct, frozen=True):
    """``effort`` is the template's. With ``summary``, reasoning is told as a summary instead of as reasoning text."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(SamplingFields, kw_only=True):
    """A request for a response. Fields of completions that have another name here, or none, can only be null."""

    n: Annotated[Literal[1], OnlyRefused] | None = None
    max_tokens: None = None
    response_format: None = None
    return_token_ids: None = None
    input: Annotated[str | InputItems, Meta(description="A user's text, or the conversation so far in order.")]
    instructions: Annotated[str, Meta(description="A system message before the input.")] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, description="Most tokens to generate.")] | None = None
    tools: (
        Annotated[list[FunctionTool], Meta(max_length=MAX_TOOLS, description="Functions; built-in tools are refused.")]
        | None
    ) = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[Includable] | None = None
    truncation: Annotated[Literal["auto", "disabled"], OnlyRefused] | None = None
    background: Annotated[bool, OnlyRefused] | None = None
    store: Annotated[bool, Meta(description="Without effect: nothing is stored.")] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, description="Of built-in tools, so without effect.")] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=MAX_METADATA)] | None = None
    user: ClientId | None = None
    safety_identifier: ClientId | None = None
    prompt_cache_key: ClientId | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Meta(ge=0, description="Most tokens of a reasoning section.")] | None = None

    @property
    def wants_logprobs(self) -> bool:
        """True when the answer tells its tokens' log-probabilities."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)
