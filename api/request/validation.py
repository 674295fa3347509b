"""A request's fields checked once: names, types, ranges, and the rules between fields. Nothing re-validates later.

The order of complaints is the contract's: unknown model, then fields in document order, then rules between fields
(naming the field that would have to go). The context length comes later, when the prompt is known. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from runtime.errors import RequestError

from api.errors import NotFoundError
from api.request.body_limits import MAX_ARGUMENT_VALUES, MAX_NESTING
from api.request.chat import ChatRequest
from api.request.completion import CompletionRequest
from api.request.constraint import asked_constraint
from api.request.field_errors import convert, describe
from api.request.json_body import nests_deeper
from api.request.json_scan import structure_of
from api.request.known_fields import REFUSED, sort_fields, unsupported
from api.request.messages import AssistantMessage, Message, with_part_keys
from api.request.sampling_fields import SamplingFields, StreamOptions
from api.request.tools import check_tools

Fields = TypeVar("Fields", bound=SamplingFields)


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What the operator decides about requests. ``served_names`` are the names a request may ask for."""

    served_names: tuple[str, ...]
    strict_fields: bool = False
    max_stop_strings: int = 16
    parses_tools: bool = True
    trust_chat_template: bool = False


@dataclass(frozen=True, slots=True)
class Validated(Generic[Fields]):
    """A request whose fields are right, the model name to answer with, and the names that were left out of account."""

    fields: Fields
    model: str
    ignored: tuple[str, ...]


def validate_chat(body: Mapping[str, Any], rules: RequestRules) -> Validated[ChatRequest]:
    """A chat request. Raises NotFoundError for the model, else RequestError for the first fault."""
    validated = validate_fields(body, ChatRequest, rules)
    fields = validated.fields
    check_chat(fields, rules)
    fields.messages = with_part_keys(fields.messages, body.get("messages"))
    return validated


def check_chat(fields: ChatRequest, rules: RequestRules) -> None:
    """The rules between the fields of a chat request. Raises RequestError for the first that is broken."""
    for check in (_check_messages, _check_common, _check_chat):
        check(fields, rules)


def validate_completion(body: Mapping[str, Any], rules: RequestRules) -> Validated[CompletionRequest]:
    """A text completion request. Raises NotFoundError for the model, else RequestError for the first fault."""
    validated = validate_fields(body, CompletionRequest, rules)
    fields = validated.fields
    _check_common(fields, rules)
    if fields.max_tokens == 0 and fields.scored is None and not fields.echo:
        message = "max_tokens: 0 generates nothing; it is allowed only with echo or prompt_logprobs"
        raise RequestError(message, "max_tokens")
    return validated


def check_model(model: object, rules: RequestRules) -> str:
    """The name to answer with. Raises NotFoundError for a name that is not served."""
    if model is None or model == "":
        return rules.served_names[0]
    if not isinstance(model, str):
        raise RequestError(f"model: expected a string, got {describe(model)}", "model")
    if model not in rules.served_names:
        shown = model if len(model) <= 256 else model[:256] + "..."
        raise NotFoundError(f"The model `{shown}` does not exist.", "model")
    return model


def validate_fields(
    body: Mapping[str, Any], to: type[Fields], rules: RequestRules, not_here: Mapping[str, str] | None = None
) -> Validated[Fields]:
    """The fields of a body, each by itself. Raises NotFoundError for the model, else RequestError for the first fault.

    ``not_here`` are fields of other endpoints that would change the answer, and why this one refuses them.
    """
    model = check_model(body.get("model"), rules)
    not_here = not_here or {}
    known_names = frozenset(to.__struct_fields__) - not_here.keys()
    found = sort_fields(body, known_names, strict=rules.strict_fields, refused={**REFUSED, **not_here})
    try:
        fields = convert(found.known, to)
    except RequestError as error:
        first = found.positions.get((error.field or "").partition(".")[0], len(found.positions))
        if found.refusal is not None and found.refusal[0] < first:
            raise found.refusal[1] from error
        raise
    if found.refusal is not None:
        raise found.refusal[1]
    unknown = _unknown_options(found.known.get("stream_options"))
    if unknown and rules.strict_fields:
        raise unsupported(unknown[0])
    return Validated(fields, model, (*found.ignored, *unknown))


def _unknown_options(given: Mapping[str, Any] | None) -> list[str]:
    """The keys of ``stream_options`` that mean nothing here; null means absent."""
    known = StreamOptions.__struct_fields__
    return [
        f"stream_options.{name}" for name, value in (given or {}).items() if name not in known and value is not None
    ]


def _check_messages(fields: ChatRequest, _rules: RequestRules) -> None:
    _check_calls(fields.messages)
    for index, message in enumerate(fields.messages):
        if not isinstance(message, AssistantMessage):
            continue
        if message.content is None and not message.tool_calls and message.function_call is None:
            where = f"messages.{index}.content"
            raise RequestError(f"{where} is required for an assistant message without tool_calls", where)


def _check_calls(messages: Sequence[Message]) -> None:
    """Arguments are JSON in a text, which the template gets parsed: bounded together, nested like the body itself."""
    num_values = 0
    for field, arguments in _call_arguments(messages):
        if len(arguments) <= MAX_NESTING:  # too short to hold much
            continue
        found = structure_of(arguments.encode())
        num_values += found.commas + found.containers
        if num_values > MAX_ARGUMENT_VALUES:
            message = f"{field}: at most {MAX_ARGUMENT_VALUES} values are allowed in the arguments of all calls"
            raise RequestError(message, field)
        if found.containers > MAX_NESTING and _is_too_deep(arguments):
            raise RequestError(f"{field}: nested deeper than {MAX_NESTING} levels", field)


def _call_arguments(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Each call's arguments with the name of their field."""
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            for place, call in enumerate(message.tool_calls or ()):
                yield f"messages.{index}.tool_calls.{place}.function.arguments", call.function.arguments
            if message.function_call is not None:
                yield f"messages.{index}.function_call.arguments", message.function_call.arguments


def _is_too_deep(json_text: str) -> bool:
    try:
        return nests_deeper(msgspec.json.decode(json_text), MAX_NESTING)
    except RecursionError:
        return True
    except msgspec.DecodeError:  # the template gets the text as it is
        return False


def _check_common(fields: SamplingFields, rules: RequestRules) -> None:
    if fields.stream_options not in {None, StreamOptions()} and not fields.stream:
        raise RequestError("stream_options is only allowed when stream is true", "stream_options")
    if fields.prompt_logprobs is not None and fields.stream:
        raise RequestError("prompt_logprobs cannot be combined with stream", "prompt_logprobs")
    _check_stop(fields.stop, rules.max_stop_strings)
    unsupported = (
        ("use_beam_search", bool(fields.use_beam_search), "beam search is not supported"),
        ("length_penalty", fields.length_penalty not in {None, 1.0}, "only 1 is supported, without beam search"),
        ("best_of", fields.best_of not in {None, fields.num_choices}, "only the value of n is supported"),
        ("priority", fields.priority not in {None, 0}, "only 0 is supported, without priority scheduling"),
        ("truncate_prompt_tokens", fields.truncate_prompt_tokens == 0, "expected -1 or an integer >= 1, got 0"),
    )
    for name, is_asked, why in unsupported:
        if is_asked:
            raise RequestError(f"{name}: {why}", name)


def _check_stop(stop: str | list[str] | None, limit: int) -> None:
    stops = [stop] if isinstance(stop, str) else stop or []
    if "" in stops:
        raise RequestError("stop: an empty string cannot be a stop string", "stop")
    if len(stops) > limit:
        raise RequestError(f"stop: at most {limit} stop strings are allowed, got {len(stops)}", "stop")


def _check_chat(fields: ChatRequest, rules: RequestRules) -> None:
    if fields.top_logprobs and not fields.logprobs:
        raise RequestError("top_logprobs is only allowed when logprobs is true", "top_logprobs")
    if fields.chat_template is not None and not rules.trust_chat_template:
        raise RequestError("chat_template: this server does not run templates from requests", "chat_template")
    _check_tools(fields, rules)
    _check_continuation(fields)


def _check_tools(fields: ChatRequest, rules: RequestRules) -> None:
    check_tools(fields.tools, fields.tool_choice)
    choice = fields.choice_of_tools
    if choice == "auto" and not rules.parses_tools:
        message = 'tool_choice: "auto" tool choice requires a tool-call parser, and this server runs without one'
        raise RequestError(message, "tool_choice")
    demand = asked_constraint(fields)
    if demand is not None and choice not in {"none", "auto"}:
        message = f"{demand.field} cannot be held where tool_choice forces a call; send one of them"
        raise RequestError(message, demand.field)


def _check_continuation(fields: ChatRequest) -> None:
    if not fields.continue_final_message:
        return
    if fields.add_generation_prompt:
        message = "add_generation_prompt and continue_final_message cannot both be true"
        raise RequestError(message, "add_generation_prompt")
    if not isinstance(fields.messages[-1], AssistantMessage):
        message = "continue_final_message: the last message is not the assistant's"
        raise RequestError(message, "continue_final_message")
