"""From chat messages to prompt token ids, by the model's template and tokenizer.

Owns the view of messages that templates get, and the rule that text from a client never becomes control tokens
(unless the operator trusts clients). Knows no sampling and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from runtime.errors import RequestError
from runtime.text.chat_template import RESERVED_NAMES, ChatTemplate
from runtime.text.tokenizer import Tokenizer

from api.request.chat import ChatRequest
from api.request.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionMessage,
    Message,
    ToolCall,
    ToolMessage,
    text_of,
)
from api.request.turns import off_loop
from api.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation: the template's text and its token ids."""

    text: str
    ids: tuple[int, ...]


async def build_prompt(
    fields: ChatRequest, model: ServedModel, *, trust_special_tokens: bool, size_bytes: int
) -> Prompt:
    """Render and tokenize, off the event loop's thread when the request's ``size_bytes`` are many.

    Raises TemplateError with the template's own words, RequestError for a bad argument.
    """
    return await off_loop(size_bytes, lambda: _build(fields, model, trust_special_tokens))


def _build(fields: ChatRequest, model: ServedModel, trust_special_tokens: bool) -> Prompt:
    tokenizer = model.tokenizer
    template = model.template if fields.chat_template is None else ChatTemplate(fields.chat_template)
    given: dict[str, Any] = {
        "messages": [_template_message(message, template) for message in fields.messages],
        "documents": fields.documents,
        "variables": _variables(fields, template),
    }
    if not trust_special_tokens:
        given = {name: _guarded(value, tokenizer) for name, value in given.items()}
    text = template.render(
        given["messages"],
        documents=given["documents"],
        variables={**model.special_tokens, **given["variables"]},
        add_generation_prompt=fields.add_generation_prompt is not False,
        continue_final_message=bool(fields.continue_final_message),
    )
    ids = tokenizer.encode_guarded(text, add_special_tokens=bool(fields.add_special_tokens))
    return Prompt(tokenizer.unguarded(text), tuple(ids))


def _template_message(message: Message, template: ChatTemplate) -> dict[str, Any]:
    role = message.__struct_config__.tag
    if isinstance(message, DeveloperMessage) and not template.knows_developer:
        role = "system"
    view: dict[str, Any] = {"role": role, "content": text_of(message.content)}
    if message.name is not None:
        view["name"] = message.name
    if isinstance(message, FunctionMessage):
        view["role"] = "tool"
    if isinstance(message, ToolMessage):
        view["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        view.update(_assistant_extras(message))
    return view


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


def _variables(fields: ChatRequest, template: ChatTemplate) -> dict[str, Any]:
    """Extra names for the template: ``chat_template_kwargs`` over what ``reasoning_effort`` implies."""
    variables: dict[str, Any] = {}
    if fields.reasoning_effort is not None:
        variables["reasoning_effort"] = fields.reasoning_effort
        if "enable_thinking" in template.variables:
            variables["enable_thinking"] = fields.reasoning_effort != "none"
    for name, value in (fields.chat_template_kwargs or {}).items():
        if name in RESERVED_NAMES:
            where = "chat_template_kwargs"
            raise RequestError(f"{where}: {name!r} is set by the server and cannot be given here", where)
        variables[name] = value
    return variables


def _guarded(value: Any, tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - plain JSON values of any shape
    """A copy of a JSON value in which no string, key included, can be read as a control token."""
    if isinstance(value, str):
        return tokenizer.guard(value)
    if isinstance(value, Mapping):
        return {_guarded(key, tokenizer): _guarded(item, tokenizer) for key, item in value.items()}
    if isinstance(value, list):
        return [_guarded(item, tokenizer) for item in value]
    return value
