"""From the body of a request for a message (Anthropic's) to the chat request that asks for the same.

What both kinds of request have in common is checked by the chat request's rules, with the given names in the errors.
Knows no prompt and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from runtime.errors import RequestError

from api.request.chat import ChatRequest
from api.request.field_names import GivenNames, Origin
from api.request.message_request import (
    NOT_HERE,
    AnyTool,
    Block,
    ClientTool,
    MessageRequest,
    NoTool,
    OneTool,
    TextBlockIn,
    ThinkingIn,
    ThinkingOff,
    ThinkingOn,
    ToolResultIn,
    ToolUseIn,
    Turn,
)
from api.request.messages import (
    AssistantMessage,
    FunctionCall,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from api.request.sampling_fields import SamplingFields
from api.request.structured import JsonSchemaFormat, NamedSchema
from api.request.tools import FunctionDefinition, NamedFunction, NamedTool, Tool, ToolChoice
from api.request.validation import RequestRules, Validated, check_chat, validate_fields

_FIELDS = {
    "max_completion_tokens": "max_tokens",
    "thinking_token_budget": "thinking.budget_tokens",
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
    "response_format.json_schema": "output_config.format",
    "response_format": "output_config.format",
    "tool_choice.function": "tool_choice",
    "parameters": "input_schema",
    "arguments": "input",
}


@dataclass(frozen=True, slots=True)
class AskedMessage:
    """A request for a message, the chat request made of it, and what its fields are called."""

    chat: Validated[ChatRequest]
    names: GivenNames


def validate_message(body: Mapping[str, Any], rules: RequestRules, *, counting: bool = False) -> AskedMessage:
    """A request for a message. Raises NotFoundError for the model, else RequestError for the first fault.

    ``counting``: only the prompt is of interest, so ``max_tokens`` may be absent.
    """
    asked = validate_fields(body, MessageRequest, rules, NOT_HERE)
    fields = asked.fields
    if fields.max_tokens is None and not counting:
        raise RequestError("max_tokens is required", "max_tokens")
    found = _Found()
    if fields.system is not None:
        found.add(SystemMessage(_text(fields.system)), "system")
    for index, turn in enumerate(fields.messages):
        _take(turn, f"messages.{index}", found)
    names = GivenNames(_FIELDS, "messages", tuple(found.origins))
    chat = _chat_request(fields, found.messages)
    with names.in_errors():
        check_chat(chat, rules)
    return AskedMessage(Validated(chat, asked.model, asked.ignored), names)


@dataclass(slots=True)
class _Found:
    """The messages so far, their origins, and the functions of the calls by id."""

    messages: list[Message] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)

    def add(self, message: Message, place: str, calls: tuple[str, ...] = ()) -> None:
        self.messages.append(message)
        self.origins.append(Origin(place, calls))


def _take(turn: Turn, place: str, found: _Found) -> None:
    blocks: list[Block] = [TextBlockIn(turn.content)] if isinstance(turn.content, str) else turn.content
    if turn.role == "assistant":
        _take_answer(blocks, place, found)
        return
    texts: list[TextPart] = []
    for index, block in enumerate(blocks):
        where = f"{place}.content.{index}"
        match block:
            case TextBlockIn(text):
                texts.append(TextPart(text))
            case ToolResultIn(call_id, content):
                if call_id not in found.functions:
                    message = f"{where}.tool_use_id: no tool_use before it has this id; send the call as well"
                    raise RequestError(message, f"{where}.tool_use_id")
                found.add(ToolMessage(_text(content or ""), call_id, found.functions[call_id]), where)
            case _:
                raise RequestError(f"{where}: a user's message holds text and tool_result blocks only", where)
    if texts or not blocks:
        found.add(UserMessage(texts or ""), place)


def _take_answer(blocks: list[Block], place: str, found: _Found) -> None:
    parts: list[TextPart | RefusalPart] = []
    calls: list[ToolCall] = []
    call_places: list[str] = []
    thoughts: list[str] = []
    for index, block in enumerate(blocks):
        where = f"{place}.content.{index}"
        match block:
            case TextBlockIn(text):
                parts.append(TextPart(text))
            case ThinkingIn(thinking):
                thoughts.append(thinking)
            case ToolUseIn(call_id, name, given):
                found.functions[call_id] = name
                calls.append(ToolCall(FunctionCall(name, msgspec.json.encode(given).decode()), call_id))
                call_places.append(where)
            case ToolResultIn():
                raise RequestError(f"{where}: results of tools come in the user's message", where)
    content: list[TextPart | RefusalPart] | str | None = parts or (None if calls else "")
    reasoning = "\n".join(thoughts) or None
    message = AssistantMessage(content, tool_calls=calls or None, reasoning_content=reasoning)
    found.add(message, place, tuple(call_places))


def _chat_request(fields: MessageRequest, messages: list[Message]) -> ChatRequest:
    shared = {name: getattr(fields, name) for name in SamplingFields.__struct_fields__}
    output, thinking = fields.output_config, fields.thinking
    if output is not None and output.format is not None:
        shared["response_format"] = JsonSchemaFormat(NamedSchema(output.format.schema))
    shared["stop"] = fields.stop_sequences
    variables = dict(fields.chat_template_kwargs or {})
    if thinking is not None:
        variables.setdefault("enable_thinking", not isinstance(thinking, ThinkingOff))
    last = messages[-1]
    return ChatRequest(
        **shared,
        messages=messages,
        reasoning_effort=output.effort if output is not None else None,
        chat_template_kwargs=variables or None,
        thinking_token_budget=thinking.budget_tokens if isinstance(thinking, ThinkingOn) else None,
        tools=[_tool(tool) for tool in fields.tools or ()] or None,
        tool_choice=_choice(fields),
        parallel_tool_calls=False if getattr(fields.tool_choice, "disable_parallel_tool_use", None) else None,
        # An answer that is already there is gone on with.
        continue_final_message=(isinstance(last, AssistantMessage) and not last.tool_calls) or None,
    )


def _tool(tool: ClientTool) -> Tool:
    return Tool(FunctionDefinition(tool.name, tool.description, tool.input_schema, tool.strict))


def _choice(fields: MessageRequest) -> ToolChoice | None:
    match fields.tool_choice:
        case OneTool(name):
            return NamedTool(NamedFunction(name))
        case AnyTool():
            return "required"
        case NoTool():
            return "none"
        case _:
            return None


def _text(content: str | list[TextBlockIn]) -> str | list[TextPart]:
    return content if isinstance(content, str) else [TextPart(block.text) for block in content]
