"""Whether two branches of ``oneOf`` are told apart at a glance, by listed values of the whole or of a required name.

A cheap sufficient test, so that hundreds of branches can be compared in pairs. Knows covers; knows no keyword.
"""

from __future__ import annotations

from fractions import Fraction

from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Cover, Simple
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.strings import Strings

Marks = dict[str, frozenset[str | Fraction]]
"""Required name, or "" with a value that is no object -> the values that it can have."""


def marks_of(context: Context, cover: Cover) -> dict[str, list[Marks]]:
    """Kind -> the marks of each simple set of it."""
    return {kind: [_marks(context, one) for one in sets] for kind, sets in cover.items()}


def told_apart(one: dict[str, list[Marks]], other: dict[str, list[Marks]]) -> bool:
    """Whether no value can belong to both: in every pair of one kind a mark has no value in common."""
    return all(
        any(name in right and values.isdisjoint(right[name]) for name, values in left.items())
        for kind in one.keys() & other.keys()
        for left in one[kind]
        for right in other[kind]
    )


def _marks(context: Context, one: Simple) -> Marks:
    if not isinstance(one, Objects):
        values = _listed([one])
        return {} if values is None else {"": values}
    marks: Marks = {}
    for name in one.required:
        state = one.at(name, context.languages)
        sets = [simple for found in context.cover(state).values() for simple in found] if state else []
        values = _listed(sets)
        if sets and values is not None:
            marks[name] = values
    return marks


def _listed(sets: list[Simple]) -> frozenset[str | Fraction] | None:
    values: set[str | Fraction] = set()
    for one in sets:
        if isinstance(one, Strings) and one.listed is not None:
            values |= set(one.listed)
        elif isinstance(one, Numbers) and one.low is not None and one.low == one.high:
            values.add(one.low)
        else:
            return None
    return frozenset(values)
