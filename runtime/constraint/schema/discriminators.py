"""Whether two branches of ``oneOf`` are told apart at a glance, by listed values of the whole or of a required name.

A cheap sufficient test, so that hundreds of branches can be compared in pairs. Knows covers; knows no keyword.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Cover, Simple
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.strings import Strings
from runtime.errors import SchemaRefused

MAX_PAIRS = 20_000

Marks = dict[str, frozenset[str | Fraction]]
"""Required name, or "" with a value that is no object -> the values that it can have."""


def marks_of(context: Context, cover: Cover) -> dict[str, list[Marks]]:
    """Kind -> the marks of each simple set of it."""
    return {kind: [_marks(context, one) for one in sets] for kind, sets in cover.items()}


def unmarked_pairs(marks: list[dict[str, list[Marks]]]) -> set[tuple[int, int]]:
    """The pairs of branches that are not told apart, without looking at every pair where one name marks them all."""
    pairs: set[tuple[int, int]] = set()
    for kind in {kind for found in marks for kind in found}:
        branches = [i for i, found in enumerate(marks) if kind in found]
        names = set.intersection(*(set(one) for i in branches for one in marks[i][kind]))
        together: dict[str | Fraction | None, list[int]] = {}
        for i in branches:
            values = {value for one in marks[i][kind] for value in one[min(names)]} if names else {None}
            for value in values:
                together.setdefault(value, []).append(i)
        for same in together.values():
            pairs.update(combinations(same, 2))
        if len(pairs) > MAX_PAIRS:
            problem = f"has branches that share over {MAX_PAIRS:,} pairs of values; give each a name with a const"
            raise SchemaRefused("oneOf", "", problem)
    return {(i, j) for i, j in pairs if not _told_apart(marks[i], marks[j])}


def _told_apart(one: dict[str, list[Marks]], other: dict[str, list[Marks]]) -> bool:
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
