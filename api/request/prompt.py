"""From chat messages to prompt token ids, by the model's template and tokenizer.

Owns the view of messages that templates get. A rendering says which of its characters the template wrote, and the
tokenizer makes control tokens of those alone, unless the operator trusts clients. Knows no sampling and no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from runtime.errors import RequestError
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.wire import RESERVED_NAMES, Rendering

from api.request.chat import ChatRequest
from api.request.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    KeyedTextPart,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    text_of,
)
from api.request.tool_prompt import template_tools, with_calls_in_words, with_tools_in_words
from api.request.tools import Tool
from api.request.turns import off_loop
from api.served_model import ServedModel

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation: the template's text and its token ids."""

    text: str
    ids: tuple[int, ...]


async def with_prompt(
    fields: ChatRequest,
    model: ServedModel,
    use: Callable[[Prompt], Result],
    *,
    trust_special_tokens: bool,
    owner: str,
    size_bytes: int,
) -> Result:
    """What ``use`` makes of the prompt. Rendered in the template's process; tokenized, and used, off the event loop's
    thread when the texts are long.

    ``owner`` tells apart who may gain from the texts that somebody sent before. Raises TemplateError with the
    template's own words, RequestError for a bad argument.
    """
    rendering = await asyncio.wrap_future(await off_loop(size_bytes, lambda: _submit(fields, model)))
    longer = max(size_bytes, len(rendering.text))
    remembered = None if trust_special_tokens else owner
    return await off_loop(longer, lambda: use(_tokenized(rendering, fields, model, remembered)))


def _submit(fields: ChatRequest, model: ServedModel) -> Future[Rendering]:
    template = model.template
    if fields.chat_template is not None:
        template = ChatTemplate(fields.chat_template, model.guest_worker)
    tools = _told_tools(fields, model)
    in_words = bool(tools) and not template.knows_tools
    messages = [_template_message(message, template, tools_in_words=in_words) for message in fields.messages]
    if not template.knows_tool_turns:
        messages = with_calls_in_words(messages)
    if tools and in_words:
        messages = with_tools_in_words(messages, tools)
    if template.reads_parts_alone:
        messages = [_in_parts(message) for message in messages]
    return template.submit(
        messages,
        tools=template_tools(tools) if tools and template.knows_tools else None,
        documents=fields.documents,
        variables=_variables(fields),
        implied=_implied(fields),
        server_texts=model.special_tokens,
        add_generation_prompt=fields.add_generation_prompt is not False,
        continue_final_message=bool(fields.continue_final_message),
    )


def _told_tools(fields: ChatRequest, model: ServedModel) -> list[Tool]:
    """The tools that the prompt tells of; with a choice of none, too, unless the operator leaves them out then."""
    left_out = fields.choice_of_tools == "none" and model.answers.leaves_out_unused_tools
    return [] if left_out else fields.offered_tools


def _tokenized(rendering: Rendering, fields: ChatRequest, model: ServedModel, owner: str | None) -> Prompt:
    """``owner`` is None where the whole text is trusted."""
    text, add_special = rendering.text, bool(fields.add_special_tokens)
    if owner is None:
        ids = model.tokenizer.encode(text, add_special_tokens=add_special)
    else:
        ids = model.tokenizer.encode_spans(text, rendering.spans, add_special_tokens=add_special, owner=owner)
    return Prompt(text, tuple(ids))


def _template_message(message: Message, template: ChatTemplate, *, tools_in_words: bool) -> dict[str, Any]:
    role = message.__struct_config__.tag
    if isinstance(message, DeveloperMessage) and not template.knows_developer:
        role = "system"
    is_system = isinstance(message, SystemMessage | DeveloperMessage)
    gets_words = (tools_in_words and is_system) or (_is_tool_turn(message) and not template.knows_tool_turns)
    view: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if isinstance(message.content, list) and template.reads_parts and not gets_words:
        view["content"] = [_template_part(part) for part in message.content]
    if message.name is not None:
        view["name"] = message.name
    if isinstance(message, FunctionMessage):
        view["role"] = "tool"
    if isinstance(message, ToolMessage):
        view["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        view.update(_assistant_extras(message))
    return view


def _is_tool_turn(message: Message) -> bool:
    """True for what a template that knows no tools gets in words."""
    if isinstance(message, AssistantMessage):
        return bool(message.tool_calls or message.function_call)
    return isinstance(message, ToolMessage | FunctionMessage)


def _in_parts(view: dict[str, Any]) -> dict[str, Any]:
    """A message for a template that reads nothing but parts."""
    content = view["content"]
    return {**view, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else view


def _template_part(part: TextPart | RefusalPart) -> dict[str, Any]:
    others = part.others if isinstance(part, KeyedTextPart) else {}
    return {"type": "text", "text": text_of([part]), **others}


def _assistant_extras(message: AssistantMessage) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    calls = list(message.tool_calls or ())
    if message.function_call is not None and not calls:
        calls = [ToolCall(message.function_call)]
    if calls:
        extras["tool_calls"] = [_template_call(call) for call in calls]
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        extras["reasoning_content"] = reasoning
    return extras


def _template_call(call: ToolCall) -> dict[str, Any]:
    """Arguments as an object where they are one, because templates print them with ``tojson``."""
    arguments: Any = call.function.arguments
    try:
        parsed = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        parsed = None
    if isinstance(parsed, dict):
        arguments = parsed
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": arguments}}


def _variables(fields: ChatRequest) -> dict[str, Any]:
    """Extra names for the template: ``chat_template_kwargs`` over ``reasoning_effort``."""
    variables: dict[str, Any] = {}
    if fields.reasoning_effort is not None:
        variables["reasoning_effort"] = fields.reasoning_effort
    for name, value in (fields.chat_template_kwargs or {}).items():
        if name in RESERVED_NAMES:
            where = "chat_template_kwargs"
            raise RequestError(f"{where}: {name!r} is set by the server and cannot be given here", where)
        variables[name] = value
    return variables


def _implied(fields: ChatRequest) -> dict[str, Any]:
    """What ``reasoning_effort`` means to a template that can only be told to think or not."""
    return {} if fields.reasoning_effort is None else {"enable_thinking": fields.reasoning_effort != "none"}
