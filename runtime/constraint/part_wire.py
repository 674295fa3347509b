"""A constraint's parts as plain lists and back, for another process: ``["Sequence", [["Literal", "a"], ...]]``.

Knows the parts' names and fields. Nesting is bounded by whoever built the tree.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from runtime.constraint.spec import (
    Choice,
    Either,
    Json,
    Lark,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Tag,
    Tagged,
    Until,
)

_KINDS = {
    kind.__name__: kind for kind in (Json, Pattern, Choice, Lark, Literal, Until, Sequence, Either, Repeat, Tag, Tagged)
}


def part_to_wire(part: Part | Tag) -> list[Any]:
    """The part's name and its fields, in order."""
    return [type(part).__name__, *(_to_wire(getattr(part, field.name)) for field in dataclasses.fields(part))]


def part_from_wire(value: list[Any]) -> Part:
    """The part that ``part_to_wire`` wrote."""
    part: Part = _from_wire(value)
    return part


def _to_wire(value: object) -> object:
    if isinstance(value, tuple):
        return {"items": [_to_wire(item) for item in value]}
    return part_to_wire(value) if type(value).__name__ in _KINDS else value  # type: ignore[arg-type]


def _from_wire(value: Any) -> Any:  # noqa: ANN401 - whatever a part's field may hold
    if isinstance(value, dict):
        return tuple(map(_from_wire, value["items"]))
    if isinstance(value, list):
        return _KINDS[value[0]](*map(_from_wire, value[1:]))
    return value
