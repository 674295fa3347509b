"""The body of ``POST /v1/chat/completions`` as it arrives: every known field with its type and range.

Knows neither defaults nor cross-field rules (``api.request.validation``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from api.request.messages import Messages
from api.request.sampling_fields import MAX_TOP_LOGPROBS, SamplingFields
from api.request.tools import Tool, ToolChoice, Tools

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
    thinking_token_budget: Annotated[int, Meta(ge=0, description="Most tokens of a reasoning section.")] | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Annotated[bool, Meta(description="False: at most one call.")] | None = None

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools; an empty list stands for none, as does no list."""
        return self.tools or []

    @property
    def choice_of_tools(self) -> ToolChoice:
        """``tool_choice``, or what its absence means."""
        return self.tool_choice or ("auto" if self.tools else "none")

    @property
    def asked_max_tokens(self) -> int | None:
        """``max_completion_tokens`` or else ``max_tokens``."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
