"""What a request demands of its answers' text, from whichever field says so: one demand at most, as values.

Owns the meaning of ``response_format``, ``structured_outputs`` and ``guided_*`` and the rules between them. Whether a
schema or a pattern is any good is for the compiler to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from runtime.constraint.spec import Choice, ConstraintSpec, Json, Lark, Part, Pattern, Tag, Tagged
from runtime.errors import RequestError

from api.request.field_errors import convert, describe
from api.request.sampling_fields import SamplingFields
from api.request.structured import (
    BACKENDS,
    JsonObjectFormat,
    JsonSchemaFormat,
    SchemaValue,
    StructuralTag,
    StructuredOutputs,
    TextFormat,
)

ANY_OBJECT = '{"type":"object"}'

_KINDS = "json, regex, choice, grammar, json_object, structural_tag"


def asked_constraint(fields: SamplingFields) -> ConstraintSpec | None:
    """The one demand of a request, None where any text will do.

    Raises RequestError for two demands at once, naming both fields, and for an empty or unusable one.
    """
    _check_manner(fields)
    found = list(_demands(fields))
    if len(found) > 1:
        first, second = found[0].field, found[1].field
        raise RequestError(f"{second} and {first} each say what the answer must look like; send one of them", second)
    return found[0] if found else None


def check_marks(demand: ConstraintSpec | None, names_control_token: Callable[[str], bool]) -> None:
    """Raise RequestError where a client's structural tag would have the model write a control token."""
    if demand is None or not isinstance(demand.part, Tagged):
        return
    for tag in demand.part.tags:
        for mark in (tag.begin, tag.end):
            if names_control_token(mark):
                message = f"{demand.field}: {describe(mark)} holds a control token; marks are ordinary text"
                raise RequestError(message, demand.field)


def _demands(fields: SamplingFields) -> Iterator[ConstraintSpec]:
    match fields.response_format:
        case JsonObjectFormat(schema):
            yield ConstraintSpec(_json(schema), "response_format" if schema is None else "response_format.schema")
        case JsonSchemaFormat(named):
            yield ConstraintSpec(_json(named.schema), "response_format.json_schema.schema")
        case StructuralTag() as tag:
            yield ConstraintSpec(_tagged(tag, "response_format"), "response_format")
        case TextFormat() | None:
            pass
    if fields.structured_outputs is not None:
        yield _structured(fields.structured_outputs)
    guided: tuple[tuple[str, Any, Callable[[Any, str], Part]], ...] = (
        ("guided_json", fields.guided_json, _schema),
        ("guided_regex", fields.guided_regex, _pattern),
        ("guided_choice", fields.guided_choice, _choice),
        ("guided_grammar", fields.guided_grammar, _grammar),
    )
    for name, value, part in guided:
        if value is not None:
            yield ConstraintSpec(part(value, name), name)


def _structured(outputs: StructuredOutputs) -> ConstraintSpec:
    kinds: tuple[tuple[str, Any, Callable[[Any, str], Part]], ...] = (
        ("json", outputs.json, _schema),
        ("regex", outputs.regex, _pattern),
        ("choice", outputs.choice, _choice),
        ("grammar", outputs.grammar, _grammar),
        ("json_object", outputs.json_object or None, lambda _value, _field: Json(ANY_OBJECT)),
        ("structural_tag", outputs.structural_tag, _structural_tag),
    )
    given = [(f"structured_outputs.{name}", value, part) for name, value, part in kinds if value is not None]
    if not given:
        raise RequestError(f"structured_outputs: expected one of {_KINDS}, got none", "structured_outputs")
    if len(given) > 1:
        (first, *_), (second, *_) = given[:2]
        raise RequestError(f"{second} and {first} each say what the answer must look like; send one of them", second)
    field, value, part = given[0]
    return ConstraintSpec(part(value, field), field)


def _json(schema: SchemaValue | None) -> Json:
    return Json(ANY_OBJECT if schema is None else msgspec.json.encode(schema).decode())


def _schema(value: SchemaValue | str, _field: str) -> Json:
    return Json(value) if isinstance(value, str) else _json(value)


def _pattern(regex: str, _field: str) -> Pattern:
    return Pattern(regex)


def _choice(texts: list[str], field: str) -> Choice:
    if not texts:
        raise RequestError(f"{field}: an empty list leaves no answer", field)
    return Choice(tuple(texts))


def _grammar(text: str, field: str) -> Lark:
    if not text.strip():
        raise RequestError(f"{field}: an empty grammar leaves no answer", field)
    return Lark(text)


def _structural_tag(value: StructuralTag | str, field: str) -> Tagged:
    if isinstance(value, str):
        try:
            decoded = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            raise RequestError(f"{field}: expected the JSON text of an object, got {describe(value)}", field)
        try:
            value = convert(decoded, StructuralTag)
        except RequestError as error:
            raise RequestError(f"{field}: in its JSON, {error}", field) from error
    return _tagged(value, field)


def _tagged(asked: StructuralTag, field: str) -> Tagged:
    """Both spellings as one. Raises RequestError unless it is exactly one, with a trigger for each tag."""
    newer = asked.format
    if newer is not None and asked.structures is None and asked.triggers is None:
        parts = [(tag.begin, tag.content.json_schema, tag.end) for tag in newer.tags]
        at_least_one, stop_after_first = bool(newer.at_least_one), bool(newer.stop_after_first)
        triggers = newer.triggers
    elif newer is None and asked.structures is not None and asked.triggers is not None:
        parts = [(tag.begin, tag.schema, tag.end) for tag in asked.structures]
        at_least_one = stop_after_first = False
        triggers = asked.triggers
    else:
        message = f"{field}: a structural tag has structures and triggers, or a format of type triggered_tags"
        raise RequestError(message, field)
    tags = []
    for begin, schema, end in parts:
        trigger = next((text for text in triggers if text and begin.startswith(text)), None)
        if trigger is None:
            raise RequestError(f"{field}: no trigger is the start of {describe(begin)}", field)
        tags.append(Tag(begin, _json(schema), end, trigger))
    return Tagged(tuple(tags), at_least_one=at_least_one, stop_after_first=stop_after_first)


def _check_manner(fields: SamplingFields) -> None:
    """The two fields that say how a constraint is held: a library's name, and white space within JSON."""
    backend = fields.guided_decoding_backend
    if backend is not None and backend.partition(":")[0] not in BACKENDS:
        where = "guided_decoding_backend"
        raise RequestError(f"{where}: {describe(backend)} is not known; known are {', '.join(BACKENDS)}", where)
    _check_whitespace(fields.guided_whitespace_pattern, "guided_whitespace_pattern")
    if fields.structured_outputs is not None:
        _check_whitespace(fields.structured_outputs.whitespace_pattern, "structured_outputs.whitespace_pattern")


def _check_whitespace(pattern: str | None, field: str) -> None:
    """JSON is written compactly, which is what a pattern asks for that matches the empty text."""
    if pattern is None:
        return
    try:  # short, by the field's type, and matched against nothing: it cannot take long
        admits_none = re.fullmatch(pattern, "") is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestError(f"{field}: not a regular expression: {error}", field) from error
    if not admits_none:
        message = f"{field}: JSON is written without white space, which {describe(pattern)} does not allow"
        raise RequestError(message, field)
