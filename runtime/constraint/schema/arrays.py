"""Sets of arrays: what their items satisfy by position, how many there are, what some of them satisfy.

Knows states; knows neither the schemas behind them nor how an array is written.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.constraint.schema.lost import Lost, either
from runtime.constraint.schema.state import ANYTHING, NOTHING, State, both


@dataclass(frozen=True, slots=True)
class Items:
    """What one schema says of items: the first ones by position, then the ``rest``.

    ``told``: it counts for ``unevaluatedItems``. ``all_told``: it says something of every item.
    """

    prefix: tuple[State, ...] = ()
    rest: State = ANYTHING
    told: bool = True
    all_told: bool = False


@dataclass(frozen=True, slots=True)
class Contains:
    """``least`` to ``most`` items (None: any number) satisfy ``wanted``; the others then satisfy ``unwanted``."""

    wanted: State
    unwanted: State
    least: int
    most: int | None
    place: str


@dataclass(frozen=True, slots=True)
class Arrays:
    """Arrays of ``least`` to ``most`` items that satisfy every member of ``items`` and ``contains``."""

    items: tuple[Items, ...] = ()
    least: int = 0
    most: int | None = None
    contains: tuple[Contains, ...] = ()
    unique: str | None = None
    """The place of a ``uniqueItems`` that has to hold."""
    lost: Lost | None = None

    def at(self, position: int) -> State:
        """What the item at a position satisfies."""
        return both(*(items.prefix[position] if position < len(items.prefix) else items.rest for items in self.items))

    def rest(self) -> State:
        """What items behind every prefix satisfy."""
        return both(*(items.rest for items in self.items))

    def prefix_length(self) -> int:
        """How many items some member knows by position."""
        return max((len(items.prefix) for items in self.items), default=0)


def joined(one: Arrays, other: Arrays) -> Arrays | None:
    """Arrays in both sets; None where there are none."""
    most = other.most if one.most is None else one.most if other.most is None else min(one.most, other.most)
    arrays = Arrays(
        tuple(dict.fromkeys(one.items + other.items)),
        max(one.least, other.least),
        most,
        tuple(dict.fromkeys(one.contains + other.contains)),
        one.unique if one.unique is not None else other.unique,
        either(one.lost, other.lost),
    )
    if most is not None and most < arrays.least:
        return None
    needed = range(min(arrays.least, arrays.prefix_length() + 1))
    return None if any(arrays.at(position) == NOTHING for position in needed) else arrays
