"""Sets of objects: what their values satisfy by name, which names are there, how many.

Knows states and languages; knows neither the schemas behind states nor how an object is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.constraint.schema.lost import Lost, either
from runtime.constraint.schema.regex.language import Languages
from runtime.constraint.schema.state import ANYTHING, NOTHING, State, both

_MANY = 4


@dataclass(frozen=True, slots=True)
class Members:
    """What one schema says of values: by name, by languages that hold the name, and of the ``rest``.

    ``told``: it counts for ``unevaluatedProperties``. ``all_told``: it says something of every value.
    """

    names: tuple[tuple[str, State], ...] = ()
    patterns: tuple[tuple[int, State], ...] = ()
    rest: State = ANYTHING
    told: bool = True
    all_told: bool = False
    _by_name: dict[str, State] = field(init=False, compare=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update(self.names)

    def at(self, name: str, languages: Languages) -> State:
        """What the value under a name satisfies."""
        found = [self._by_name[name]] if name in self._by_name else []
        if self.patterns:
            found += [state for language, state in self.patterns if languages.holds(language, name)]
        return found[0] if len(found) == 1 else both(*found) if found else self.rest


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects that satisfy every one of ``members``, have all ``required`` names, and ``least`` to ``most`` in all."""

    members: tuple[Members, ...] = ()
    required: tuple[str, ...] = ()
    least: int = 0
    most: int | None = None
    lost: Lost | None = None

    def names(self) -> list[str]:
        """Every name that a member or ``required`` spells out, in the order in which they came up."""
        named = (name for members in self.members for name, _ in members.names)
        return list(dict.fromkeys([*named, *self.required]))

    def at(self, name: str, languages: Languages) -> State:
        """What the value under a name satisfies; NOTHING: the name may not be there."""
        if len(self.members) == 1:
            return self.members[0].at(name, languages)
        return both(*(members.at(name, languages) for members in self.members))


def joined(one: Objects, other: Objects) -> Objects | None:
    """Objects in both sets; None where their sizes alone contradict each other."""
    most = other.most if one.most is None else one.most if other.most is None else min(one.most, other.most)
    objects = Objects(
        _compact(tuple(dict.fromkeys(one.members + other.members))),
        tuple(dict.fromkeys(one.required + other.required)),
        max(one.least, other.least),
        most,
        either(one.lost, other.lost),
    )
    too_few = most is not None and most < max(objects.least, len(objects.required))
    return None if too_few else objects


def _compact(members: tuple[Members, ...]) -> tuple[Members, ...]:
    """Fewer members that say the same: those that only speak of listed names become one, so that chains stay short."""
    if len(members) <= _MANY:
        return members
    kept = [one for one in members if one.patterns or one.rest != ANYTHING or one.all_told]
    for told in (True, False):
        names: dict[str, State] = {}
        for one in members:
            if one.told == told and one not in kept:
                for name, state in one.names:
                    names[name] = both(names.get(name, ANYTHING), state)
        if names:
            kept.append(Members(tuple(names.items()), told=told))
    return tuple(kept)


def present(name: str, state: State = ANYTHING) -> Objects:
    """Objects with a name whose value satisfies a state."""
    members = () if state == ANYTHING else (Members(((name, state),), told=False),)
    return Objects(members, (name,))


def absent(name: str) -> Objects:
    """Objects without a name."""
    return Objects((Members(((name, NOTHING),), told=False),))
