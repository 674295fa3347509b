"""A set of JSON values as the union of simple sets, each of one kind of value: what every schema becomes.

Intersection goes pair by pair within a kind. Knows the kinds; knows no keyword.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runtime.constraint.schema.arrays import Arrays
from runtime.constraint.schema.lost import Lost
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.strings import Strings


@dataclass(frozen=True, slots=True)
class Null:
    """null."""

    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class Booleans:
    """true, false or both."""

    values: frozenset[bool] = frozenset({True, False})
    lost: Lost | None = None


Simple = Null | Booleans | Numbers | Strings | Arrays | Objects
Cover = dict[str, tuple[Simple, ...]]
"""Kind -> the simple sets of it; a kind without any is left out."""


def united(covers: Iterable[Cover]) -> Cover:
    """The union. A simple set that admits its whole kind makes the others of the kind superfluous."""
    union: dict[str, dict[Simple, None]] = {}
    for cover in covers:
        for kind, sets in cover.items():
            union.setdefault(kind, {}).update(dict.fromkeys(sets))
    return {kind: tuple(sets) for kind, sets in union.items() if sets}


def sifted(cover: Cover, *, vital: bool = False) -> Cover:
    """The cover without what cannot be written, wherever something else of the kind is left.

    ``vital``: the cover is one branch of a schema. What then is left of a kind and cannot be written makes the schema
    refused where the branch is used, for else the branch would be missing.
    """
    kept: Cover = {}
    for kind, sets in cover.items():
        needed = tuple(one for one in sets if one.lost is None or one.lost.vital)
        if not needed and vital:
            needed = tuple(replace(one, lost=replace(one.lost, vital=True)) for one in sets if one.lost)
        kept[kind] = needed or sets
    return kept


def untold(cover: Cover) -> Cover:
    """The cover with nothing that counts for ``unevaluatedProperties`` and ``unevaluatedItems``: ``not`` tells none."""
    quiet: Cover = dict(cover)
    if "object" in cover:
        quiet["object"] = tuple(
            replace(one, members=tuple(replace(member, told=False) for member in one.members))
            for one in cover["object"]
            if isinstance(one, Objects)
        )
    if "array" in cover:
        quiet["array"] = tuple(
            replace(one, items=tuple(replace(items, told=False) for items in one.items))
            for one in cover["array"]
            if isinstance(one, Arrays)
        )
    return quiet
