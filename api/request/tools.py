"""The tools of a chat request and which of them may or must be called, as they arrive, and the rules between them.

Knows no wire format of a call and no template.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from runtime.errors import RequestError

from api.request.field_errors import describe

MAX_TOOLS = 256
MAX_TOOL_NAME_CHARS = 256
MAX_TOOLS_BYTES = 512 * 1024
"""Of all tools of a request written as JSON: a template prints them, and the prompt holds them."""

ToolName = Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_NAME_CHARS)]


class FunctionDefinition(msgspec.Struct, frozen=True):
    """A function that the model may call. ``parameters`` is the JSON Schema of its arguments' object."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool, Meta(description="Hold the arguments to the schema from a call's beginning.")] | None = None


class Tool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A tool; functions are the only kind."""

    function: FunctionDefinition


class NamedFunction(msgspec.Struct, frozen=True):
    """A function by its name."""

    name: ToolName


class NamedTool(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """The one function that must be called."""

    function: NamedFunction


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS, description="Functions that the model may call.")]
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool,
    Meta(description="Whether a tool may, must or must not be called; auto beside tools by default."),
]


def check_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> None:
    """Raise RequestError for tools that cannot be told apart or are too large, or a choice that fits none of them."""
    seen: set[str] = set()
    for index, tool in enumerate(tools or ()):
        name = tool.function.name
        if name in seen:
            where = f"tools.{index}.function.name"
            raise RequestError(f"{where}: {describe(name)} is the name of an earlier tool too", where)
        seen.add(name)
        _check_parameters(tool.function.parameters, f"tools.{index}.function.parameters")
    size = len(msgspec.json.encode(tools)) if tools else 0
    if size > MAX_TOOLS_BYTES:
        raise RequestError(f"tools: at most {MAX_TOOLS_BYTES} bytes are allowed, got {size}", "tools")
    if choice is None or choice == "none":
        return
    if not tools:
        raise RequestError("tool_choice is only allowed with tools", "tool_choice")
    if isinstance(choice, NamedTool) and choice.function.name not in seen:
        where = "tool_choice.function.name"
        raise RequestError(f"{where}: {describe(choice.function.name)} is not the name of a tool", where)


def _check_parameters(parameters: dict[str, Any] | None, where: str) -> None:
    kind = (parameters or {}).get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise RequestError(f"{where}: arguments are an object, so type must be 'object', got {describe(kind)}", where)
