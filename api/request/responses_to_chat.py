"""From the body of a request for a response to the chat request that asks for the same.

What both kinds of request have in common is checked by the chat request's rules, with our names in the errors
(``api.request.field_names``). Knows no prompt and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import RequestError

from api.request.chat import ChatRequest
from api.request.field_names import GivenNames
from api.request.response_items import with_types
from api.request.response_messages import conversation_of
from api.request.responses import (
    NOT_HERE,
    FlatSchemaFormat,
    FunctionChoice,
    FunctionTool,
    ResponsesRequest,
    TextOptions,
)
from api.request.sampling_fields import SamplingFields
from api.request.structured import JsonSchemaFormat, NamedSchema, ResponseFormat
from api.request.tools import FunctionDefinition, NamedFunction, NamedTool, Tool, ToolChoice
from api.request.validation import RequestRules, Validated, check_chat, check_model, validate_fields

_FIELDS = {
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "logprobs": "include",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "tool_choice.function": "tool_choice",
}


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """A request for a response as it was given, the chat request made of it, and what its fields are called."""

    fields: ResponsesRequest
    chat: Validated[ChatRequest]
    names: GivenNames


def validate_response(body: Mapping[str, Any], rules: RequestRules) -> AskedResponse:
    """A request for a response. Raises NotFoundError for the model, else RequestError for the first fault."""
    check_model(body.get("model"), rules)
    given = {**body, "input": with_types(body["input"])} if "input" in body else body
    asked = validate_fields(given, ResponsesRequest, rules, NOT_HERE)
    fields = asked.fields
    if fields.truncation == "auto":
        message = "truncation: 'auto' is not supported, nothing is ever left out: send a shorter input"
        raise RequestError(message, "truncation")
    if fields.background:
        raise RequestError("background: true is not supported: keep the connection open, or stream", "background")
    conversation = conversation_of(fields.instructions, fields.input)
    chat = _chat_request(fields, conversation.messages)
    names = GivenNames(_FIELDS, "input", conversation.origins)
    with names.in_errors():
        check_chat(chat, rules)
    return AskedResponse(fields, Validated(chat, asked.model, asked.ignored), names)


def _chat_request(fields: ResponsesRequest, messages: tuple[Any, ...]) -> ChatRequest:
    shared = {name: getattr(fields, name) for name in SamplingFields.__struct_fields__}
    shared["response_format"] = _format(fields.text)
    return ChatRequest(
        **shared,
        messages=list(messages),
        max_completion_tokens=fields.max_output_tokens,
        logprobs=fields.wants_logprobs or None,
        top_logprobs=fields.top_logprobs,
        reasoning_effort=fields.reasoning.effort if fields.reasoning is not None else None,
        chat_template_kwargs=fields.chat_template_kwargs,
        include_reasoning=fields.include_reasoning,
        thinking_token_budget=fields.thinking_token_budget,
        tools=[_tool(tool) for tool in fields.tools or ()] or None,
        tool_choice=_choice(fields),
        parallel_tool_calls=fields.parallel_tool_calls,
    )


def _format(text: TextOptions | None) -> ResponseFormat | None:
    asked = text.format if text is not None else None
    if isinstance(asked, FlatSchemaFormat):
        return JsonSchemaFormat(NamedSchema(asked.schema, asked.name, asked.description, asked.strict))
    return asked


def _tool(tool: FunctionTool) -> Tool:
    return Tool(FunctionDefinition(tool.name, tool.description, tool.parameters, tool.strict))


def _choice(fields: ResponsesRequest) -> ToolChoice | None:
    """What clients send by habit without tools means nothing then."""
    choice = fields.tool_choice
    if isinstance(choice, FunctionChoice):
        return NamedTool(NamedFunction(choice.name))
    return None if choice == "auto" and not fields.tools else choice
