"""The body of ``POST /v1/chat/completions`` as it arrives: every known field with its type and range.

Knows neither defaults nor cross-field rules (``api.request.validation``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from api.request.messages import Messages
from api.request.sampling_fields import MAX_TOP_LOGPROBS, SamplingFields

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(SamplingFields, kw_only=True):
    """A chat completion request."""

    messages: Messages
    max_completion_tokens: Annotated[int, Meta(ge=1, description="Wins over max_tokens.")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    reasoning_effort: ReasoningEffort | None = None
    echo: Annotated[bool, Meta(description="Repeat the last assistant message before the answer.")] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: Annotated[bool, Meta(description="Continue the last assistant message.")] | None = None
    documents: list[dict[str, Any]] | None = None
    chat_template: Annotated[str, Meta(description="Refused unless the operator trusts clients.")] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include_reasoning: bool | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[dict[str, Any], Meta(description='Only {"type": "text"} so far.')] | None = None

    @property
    def asked_max_tokens(self) -> int | None:
        """``max_completion_tokens`` or else ``max_tokens``."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
