"""How the values of one state are written: alternatives whose parts are states again.

An alternative is a finished schema without parts, an object with fields in a fixed order, or an array by position.
Knows no JSON text.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.state import State


@dataclass(frozen=True, slots=True)
class Finished:
    """A schema of values without parts."""

    schema: JsonValue


@dataclass(frozen=True, slots=True)
class Field:
    """A named value of an object."""

    name: str
    state: State
    required: bool


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """An object: ``fields`` in order, ``absent`` names, then further names by pattern or any (``rest``).

    ``least`` and ``most`` bound the further names, which all fields are required for.
    """

    fields: tuple[Field, ...]
    absent: tuple[str, ...] = ()
    patterns: tuple[tuple[str, State], ...] = ()
    rest: State | None = None
    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """An array of ``least`` to ``most`` items: the first ones by position, the others of ``rest``."""

    prefix: tuple[State, ...]
    rest: State | None
    least: int
    most: int | None


Plan = Finished | ObjectPlan | ArrayPlan
