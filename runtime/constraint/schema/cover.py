"""A set of JSON values as the union of simple sets, each of one kind of value: what every schema becomes.

Intersection goes pair by pair within a kind. Knows the kinds; knows no keyword.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

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
One = TypeVar("One", bound=Simple)
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
    """The cover, in which whatever cannot be written is spare wherever something else of the kind is left.

    ``vital``: the cover is one branch of a schema. What then is left of a kind and cannot be written makes the schema
    refused where the branch is used, for else the branch would be missing.
    """
    kept: Cover = {}
    for kind, sets in cover.items():
        kept[kind] = sets
        if any(one.lost is not None for one in sets):
            is_left = any(one.lost is None or one.lost.vital for one in sets)
            kept[kind] = tuple(_marked(one, spare=is_left, vital=vital) for one in sets)
    return kept


def _marked(one: Simple, *, spare: bool, vital: bool) -> Simple:
    if one.lost is None or one.lost.vital or one.lost.spare or not (spare or vital):
        return one
    return replace(one, lost=replace(one.lost, spare=spare, vital=vital and not spare))


def spare(one: One, keyword: str, place: str) -> One:
    """A set of which only other sets beside it are written: all that is admitted is in it, and perhaps more."""
    return replace(one, lost=Lost(keyword, place, "is held to by fewer values than it admits", spare=True))


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
