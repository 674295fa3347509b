"""How a prompt tells of tools: as the template's own ``tools``, or in words where the template knows none.

Owns the view of tools, calls and results that templates get. All of it comes from clients, so none of it can become a
control token. Knows no wire format of a call beside the generic one's texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from runtime.text.tool_calls.generic import call_text, result_text, tools_prompt
from runtime.text.tool_calls.tool import Tool as CallableTool

from api.request.tools import Tool

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object; without one the tool takes none."""
    parameters = tool.function.parameters
    return _NO_PARAMETERS if parameters is None else {**parameters, "type": "object"}


def callable_tools(tools: Sequence[Tool]) -> list[CallableTool]:
    """The tools as the formats of calls know them."""
    return [
        CallableTool(
            tool.function.name, msgspec.json.encode(parameters_of(tool)).decode(), strict=bool(tool.function.strict)
        )
        for tool in tools
    ]


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The tools as templates expect them, which is how clients write them."""
    return [{"type": "function", "function": _template_function(tool)} for tool in tools]


def with_tools_in_words(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Messages for a template without ``tools``: the system message, an added one if need be, tells of them."""
    words = tools_prompt(callable_tools(tools), [tool.function.description or "" for tool in tools])
    first, rest = (messages[0], messages[1:]) if messages and messages[0]["role"] == "system" else (None, messages)
    if first is None:
        return [{"role": "system", "content": words}, *rest]
    return [{**first, "content": f"{first['content']}\n\n{words}" if first["content"] else words}, *rest]


def with_calls_in_words(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a template that knows no calls: calls are text of the assistant, results one turn of the user."""
    found: list[dict[str, Any]] = []
    after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result and after_result:
            found[-1]["content"] += "\n" + result_text(message["content"])
        elif is_result:
            found.append({"role": "user", "content": result_text(message["content"])})
        else:
            found.append(_with_calls_in_text(message))
        after_result = is_result
    return found


def _with_calls_in_text(message: dict[str, Any]) -> dict[str, Any]:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    if not calls:
        return message
    texts = [call_text(call["name"], _argument_text(call["arguments"])) for call in calls]
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join([*([message["content"]] if message["content"] else []), *texts])}


def _argument_text(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _template_function(tool: Tool) -> dict[str, Any]:
    described = {} if tool.function.description is None else {"description": tool.function.description}
    parameters = tool.function.parameters
    return {
        "name": tool.function.name,
        **described,
        "parameters": {"type": "object", "properties": {}} if parameters is None else parameters,
    }
