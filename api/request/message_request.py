"""The body of ``POST /v1/messages`` (Anthropic's) as it arrives: every known field with its type and range.

Knows neither defaults nor how a chat request says the same (``api.request.message_to_chat``). Unknown keys in messages
and blocks are ignored: cache marks, citations and signatures change nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.request.sampling_fields import SamplingFields, StopString
from api.request.structured import SchemaValue
from api.request.tools import MAX_TOOLS, ToolName

MAX_TURNS = 4096

NOT_HERE: Mapping[str, str] = {
    "stop": "use stop_sequences",
    "response_format": "use output_config.format",
    "n": "a message is one answer",
    "max_completion_tokens": "use max_tokens",
    "return_token_ids": "only completions have it",
    "container": "this server runs no code",
    "mcp_servers": "this server calls no tools itself",
    "context_management": "this server does not shorten conversations: send a shorter one",
}
"""Field -> why. Ignoring one of these would change what the client gets."""


class TextBlockIn(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text. Several blocks of one message are joined by a line feed."""

    text: str


class ToolUseIn(msgspec.Struct, frozen=True, tag_field="type", tag="tool_use"):
    """A call that an earlier answer made."""

    id: str
    name: str
    input: dict[str, Any]


class ToolResultIn(msgspec.Struct, frozen=True, tag_field="type", tag="tool_result"):
    """What a call returned."""

    tool_use_id: str
    content: str | list[TextBlockIn] | None = None


class ThinkingIn(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """Reasoning of an earlier answer."""

    thinking: str


Block = TextBlockIn | ToolUseIn | ToolResultIn | ThinkingIn


class Turn(msgspec.Struct, frozen=True):
    """A message. Results of tools come in the user's."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ClientTool(msgspec.Struct, frozen=True):
    """A tool that the client runs. ``input_schema`` is the JSON Schema of its input."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None


class AutoTool(msgspec.Struct, frozen=True, tag_field="type", tag="auto"):
    """A tool may be called."""

    disable_parallel_tool_use: bool | None = None


class AnyTool(msgspec.Struct, frozen=True, tag_field="type", tag="any"):
    """Some tool must be called."""

    disable_parallel_tool_use: bool | None = None


class OneTool(msgspec.Struct, frozen=True, tag_field="type", tag="tool"):
    """This tool must be called."""

    name: ToolName
    disable_parallel_tool_use: bool | None = None


class NoTool(msgspec.Struct, frozen=True, tag_field="type", tag="none"):
    """No tool may be called."""


class ThinkingOn(msgspec.Struct, frozen=True, tag_field="type", tag="enabled"):
    """Reasoning of at most ``budget_tokens``."""

    budget_tokens: Annotated[int, Meta(ge=0)]


class ThinkingAdaptive(msgspec.Struct, frozen=True, tag_field="type", tag="adaptive"):
    """Reasoning as the model likes."""


class ThinkingOff(msgspec.Struct, frozen=True, tag_field="type", tag="disabled"):
    """No reasoning, where the template can say so."""


class OutputSchema(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that a schema admits."""

    schema: SchemaValue


class OutputConfig(msgspec.Struct, frozen=True):
    """What the answer's text looks like, and the effort of reasoning."""

    format: OutputSchema | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class MessageRequest(SamplingFields, kw_only=True):
    """A request for a message. Fields of completions that have another name here, or none, can only be null."""

    n: None = None
    stop: None = None
    response_format: None = None
    return_token_ids: None = None
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_TURNS)]
    system: Annotated[str | list[TextBlockIn], Meta(description="Instructions before the messages.")] | None = None
    stop_sequences: list[StopString] | None = None
    tools: Annotated[list[ClientTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: AutoTool | AnyTool | OneTool | NoTool | None = None
    thinking: ThinkingOn | ThinkingAdaptive | ThinkingOff | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
