"""msgspec's complaints in the contract's words: dotted field, what was expected, what was given (bounded).

Knows no particular field. Converts untyped JSON to a struct and turns the first fault into a RequestError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect
from runtime.errors import RequestError

MAX_SHOWN_CHARS = 64

_LOCATION = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.+)`", re.DOTALL)
_UNKNOWN_VALUE = re.compile(r"Invalid (?:enum )?value ")
_WORDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}

Struct = TypeVar("Struct", bound=msgspec.Struct)


def convert(fields: Mapping[str, Any], to: type[Struct]) -> Struct:
    """``fields`` as a struct. Raises RequestError for the first fault in document order."""
    try:
        return msgspec.convert(fields, to)
    except msgspec.ValidationError as error:
        raise _explain(str(error), fields, to) from error


def describe(value: object) -> str:
    """A JSON value for an error message: short, and containers by their size only."""
    if isinstance(value, list | tuple):
        return f"<list of {len(value)} items>"
    if isinstance(value, Mapping):
        return f"<object of {len(value)} keys>"
    if isinstance(value, str):
        shown = value[:MAX_SHOWN_CHARS]
        return repr(shown) if shown == value else f"{shown!r}... ({len(value)} characters)"
    return msgspec.json.encode(value).decode()


def _explain(text: str, fields: Mapping[str, Any], to: type[msgspec.Struct]) -> RequestError:
    match = _LOCATION.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    steps = [step["key"] or step["index"] for step in _STEP.finditer(path)]
    if missing := _MISSING.fullmatch(what):
        field = ".".join([*steps, missing["name"]])
        return RequestError(f"{field} is required", field)
    field = ".".join(step for step in steps if step != "...")
    if unknown := _UNKNOWN_FIELD.fullmatch(what):
        return RequestError(f"{field}: {describe(unknown['name'])} is not a field of it", field)
    given = describe(_lookup(fields, steps))
    if _UNKNOWN_VALUE.match(what):
        allowed = ", ".join(_allowed_values(to, fields, steps))
        return RequestError(f"{field}: {given} is not allowed; allowed are {allowed}", field)
    expected = _expectation(what)
    return RequestError(f"{field or 'the body'}: expected {expected}, got {given}", field or None)


def _expectation(what: str) -> str:
    """``Expected `int | null` >= 1, got `str``` -> ``an integer >= 1``."""
    head = what.partition(", got ")[0].removeprefix("Expected ")
    types, _, limits = head.removeprefix("`").partition("`")
    names = [_WORDS.get(name, name) for name in types.split(" | ") if name != "null"]
    return " or ".join(names) + limits


def _allowed_values(to: type[msgspec.Struct], fields: Mapping[str, Any], steps: list[str]) -> list[str]:
    """The values of the literal, or the tags of the structs, that stand at a place of a struct type."""
    kinds = _members(inspect.type_info(to))
    for depth, step in enumerate(steps):
        structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
        if tags := [str(kind.tag) for kind in structs if kind.tag_field == step]:
            return tags
        here = _lookup(fields, steps[:depth])
        given_tags = here.values() if isinstance(here, Mapping) else ()
        structs = [kind for kind in structs if kind.tag is None or kind.tag in given_tags]
        found = [field.type for kind in structs for field in kind.fields if field.encode_name == step]
        found += [kind.item_type for kind in kinds if isinstance(kind, inspect.ListType)]
        kinds = [member for kind in found for member in _members(kind)]
    return [str(value) for kind in kinds if isinstance(kind, inspect.LiteralType) for value in kind.values]


def _members(kind: inspect.Type) -> list[inspect.Type]:
    """A type's alternatives, without the wrappers that carry descriptions."""
    if isinstance(kind, inspect.Metadata):
        return _members(kind.type)
    if isinstance(kind, inspect.UnionType):
        return [member for part in kind.types for member in _members(part)]
    return [kind]


def _lookup(fields: object, steps: list[str]) -> object:
    value = fields
    for step in steps:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
    return value
