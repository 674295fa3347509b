"""A schema's JSON text -> plain values, within limits on size that are checked before anything else looks at them.

Knows JSON; of JSON Schema only that ``enum`` may be long.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TypeAlias

from runtime.errors import SchemaRefused

MAX_BYTES = 1_000_000
MAX_NESTING = 100
MAX_VALUES = 50_000
MAX_ENUM_ITEMS = 20_000

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(r"[\[\]{}]")


def parsed(text: str) -> JsonValue:
    """The schema as plain values. Raises SchemaRefused where ``text`` is no JSON or exceeds a limit."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise SchemaRefused("schema", "", "holds half of a surrogate pair, which no UTF-8 text can") from error
    if size > MAX_BYTES:
        raise SchemaRefused("schema", "", f"has {size:,} bytes, at most {MAX_BYTES:,} are allowed")
    nesting = _nesting(text)
    if nesting > MAX_NESTING:
        raise SchemaRefused("schema", "", f"is nested {nesting:,} deep, at most {MAX_NESTING} levels are allowed")
    try:
        value: JsonValue = json.loads(text, parse_float=_exact_float, parse_constant=_no_constant)
    except ValueError as error:
        raise SchemaRefused("schema", "", f"is not JSON: {error}") from error
    _check_sizes(value)
    return value


def pointer(place: str, *steps: str | int) -> str:
    """``place`` extended by steps, as a JSON pointer (RFC 6901)."""
    return "/".join([place, *(str(step).replace("~", "~0").replace("/", "~1") for step in steps)])


def _nesting(text: str) -> int:
    """How deep brackets outside strings nest, found without recursion: before the parser, which recurses."""
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _exact_float(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf") or Decimal(repr(value)) != Decimal(text):
        raise ValueError(f"the number {text[:40]} does not fit a double")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _check_sizes(value: JsonValue) -> None:
    count = 0
    waiting = [value]
    while waiting:
        current = waiting.pop()
        count += 1
        if isinstance(current, dict):
            for key, child in current.items():
                _check_text(key)
                if key == "enum" and isinstance(child, list) and len(child) > MAX_ENUM_ITEMS:
                    limit = f"at most {MAX_ENUM_ITEMS:,} are allowed"
                    raise SchemaRefused("enum", "", f"one list has {len(child):,} items, {limit}")
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
        elif isinstance(current, str):
            _check_text(current)
    if count > MAX_VALUES:
        raise SchemaRefused("schema", "", f"holds {count:,} values, at most {MAX_VALUES:,} are allowed")


def _check_text(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise SchemaRefused("schema", "", "holds half of a surrogate pair, which no UTF-8 text can")
