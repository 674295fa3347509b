"""The memory of one rewriting: schemas by number, what each admits, and the intersection of what several admit.

Knows how simple sets meet; what a keyword admits is told by two functions that it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.constraint.schema import arrays, numbers, objects, strings
from runtime.constraint.schema.arrays import Arrays
from runtime.constraint.schema.cover import Booleans, Cover, Null, Simple, sifted, spare
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.keywords import KINDS
from runtime.constraint.schema.lost import either
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.references import Located, References, Scope, within
from runtime.constraint.schema.regex.language import Languages
from runtime.constraint.schema.state import ANYTHING, NOTHING, State
from runtime.constraint.schema.strings import Strings
from runtime.errors import SchemaRefused

MAX_PAIRS = 40_000
"""Intersections of two simple sets in one rewriting."""
MAX_ALTERNATIVES = 2_000
"""Simple sets of one kind at one place."""
_MAX_SPARE = 8
"""Spare sets of one kind at one place, before the whole kind stands for all of them."""


class Unfinished(Exception):
    """What a schema admits was asked while it was being found out: it refers to itself without going into a value."""


@dataclass(slots=True)
class Context:
    """``met`` and ``failed`` say what one schema admits, and what everything else is."""

    references: References
    met: Callable[[Context, Located], Cover]
    failed: Callable[[Context, Located], Cover]
    languages: Languages = field(default_factory=Languages)
    _schemas: list[Located] = field(default_factory=list)
    _numbers: dict[int | str, int] = field(default_factory=dict)
    _covers: dict[int, Cover | None] = field(default_factory=dict)
    _states: dict[State, Cover] = field(default_factory=dict)
    _impossible: dict[State, bool] = field(default_factory=dict)
    _asked: set[State] = field(default_factory=set)
    _pairs: int = 0
    _full: Cover = field(default_factory=Cover)

    def __post_init__(self) -> None:
        sets: tuple[Simple, ...] = (
            Null(),
            Booleans(),
            Numbers(),
            Strings(self.languages.anything),
            Arrays(),
            Objects(),
        )
        self._full = dict(zip(KINDS, ((simple,) for simple in sets), strict=True))

    def full(self) -> Cover:
        """Every value."""
        return self._full.copy()

    def state(self, schema: JsonValue, place: str, scope: Scope, *, fails: bool = False) -> State:
        """The state of meeting a schema, or of failing it. A schema that only refers stands for what it refers to."""
        located = Located(schema, place, within(schema, place, scope))
        for _ in range(100):
            if isinstance(located.schema, dict) and isinstance(located.schema.get("$ref"), str):
                others = located.schema.keys() - {"$ref", "title", "description", "$comment", "default", "examples"}
                if not others:
                    reference = str(located.schema["$ref"])
                    located = self.references.resolve(reference, "$ref", located.place, located.scope)
                    continue
            break
        if isinstance(located.schema, bool) or located.schema == {}:
            return NOTHING if (located.schema is False) != fails else ANYTHING
        return frozenset({2 * self._number(id(located.schema), located) + fails})

    def constant(self, value: JsonValue, place: str, scope: Scope, *, fails: bool = False) -> State:
        """The state of being, or of not being, one value."""
        located = Located({"const": value}, place, Scope(scope.base, 2020, scope.top, scope.place))
        return frozenset({2 * self._number(json.dumps(value, sort_keys=True), located) + fails})

    def located(self, literal: int) -> Located:
        """The schema behind a number of a state."""
        return self._schemas[literal >> 1]

    def place(self, state: State) -> str:
        """Where the first schema of a state is, for a message."""
        return min((self.located(literal).place for literal in state if literal >= 0), default="")

    def dead(self) -> list[Located]:
        """The schemas that had to be met and admit nothing, as far as they were looked into; outer ones first."""
        return [located for number, located in enumerate(self._schemas) if self._covers.get(2 * number) == {}]

    def cover(self, state: State) -> Cover:
        """What a state admits. Raises SchemaRefused, or Unfinished while the same is being found out."""
        if state not in self._states:
            cover = {} if -1 in state else self.full()
            for literal in sorted(state):
                cover = self.joined(cover, self._literal(literal)) if literal >= 0 else cover
            self._states[state] = self._possible(sifted(cover))
        return self._states[state]

    def joined(self, one: Cover, other: Cover) -> Cover:
        """What both covers admit."""
        met: Cover = {}
        for kind, left in one.items():
            right = other.get(kind, ())
            full = self._full[kind]
            if left is full or right is full:
                met[kind] = right if left is full else left
                continue
            self._spend(len(left) * len(right))
            pairs = (self._pair(a, b) for a in left for b in right)
            found = self._few_spare(kind, tuple(dict.fromkeys(pair for pair in pairs if pair is not None)))
            if len(found) > MAX_ALTERNATIVES:
                problem = f"has {len(found):,} alternatives at one place, at most {MAX_ALTERNATIVES:,} are allowed"
                raise SchemaRefused("schema", "", problem)
            if found:
                met[kind] = found
        return {kind: sets for kind, sets in met.items() if sets}

    def impossible(self, state: State) -> bool:
        """Whether a state is known to admit nothing. Looks into values that have to be there; gives up in a loop."""
        if len(state) == 0 or -1 in state or state in self._impossible:
            return -1 in state or self._impossible.get(state, False)
        if state in self._asked:
            return False
        self._asked.add(state)
        try:
            self._impossible[state] = not self.cover(state)
        except Unfinished:
            return False
        finally:
            self._asked.discard(state)
        return self._impossible[state]

    def unwritable(self, state: State) -> bool:
        """Whether nothing that a state admits is written, be it that nothing can be or that all of it is spare."""
        if self.impossible(state):
            return True
        sets = [one for sets in self.cover(state).values() for one in sets] if state else []
        return bool(sets) and all(one.lost is not None and one.lost.spare for one in sets)

    def _few_spare(self, kind: str, sets: tuple[Simple, ...]) -> tuple[Simple, ...]:
        lost = [one.lost for one in sets if one.lost and one.lost.spare]
        if len(lost) <= _MAX_SPARE:
            return sets
        kept = (one for one in sets if one.lost is None or not one.lost.spare)
        return (*kept, spare(self._full[kind][0], lost[0].keyword, lost[0].place))

    def _spend(self, pairs: int) -> None:
        self._pairs += pairs
        if self._pairs > MAX_PAIRS:
            problem = f"combines its alternatives in over {MAX_PAIRS:,} ways; use fewer anyOf, oneOf and if at once"
            raise SchemaRefused("schema", "", problem)

    def _number(self, key: int | str, located: Located) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._schemas)
            self._schemas.append(located)
        return number

    def _literal(self, literal: int) -> Cover:
        if literal in self._covers:
            known = self._covers[literal]
            if known is None:
                raise Unfinished
            return known
        self._covers[literal] = None
        found = None
        try:
            found = (self.failed if literal & 1 else self.met)(self, self.located(literal))
        finally:
            if found is None:
                del self._covers[literal]
        self._covers[literal] = found = self._possible(found)
        return found

    def _possible(self, cover: Cover) -> Cover:
        kept = {kind: tuple(one for one in sets if self._can_be(one)) for kind, sets in cover.items()}
        return {kind: self._few_spare(kind, sets) for kind, sets in kept.items() if sets}

    def _can_be(self, one: Simple) -> bool:
        if isinstance(one, Objects):
            self._spend(len(one.required) * len(one.members) // 4)
            return not any(self.impossible(one.at(name, self.languages)) for name in one.required)
        if isinstance(one, Arrays):
            needed = range(min(one.least, one.prefix_length() + 1))
            return not any(self.impossible(one.at(position)) for position in needed)
        return True

    def _pair(self, one: Simple, other: Simple) -> Simple | None:
        if isinstance(one, Numbers) and isinstance(other, Numbers):
            return numbers.joined(one, other)
        if isinstance(one, Strings) and isinstance(other, Strings):
            return strings.joined(self.languages, one, other)
        if isinstance(one, Arrays) and isinstance(other, Arrays):
            found = arrays.joined(one, other)
            return found if found in {None, one, other} or self._can_be(found) else None
        if isinstance(one, Objects) and isinstance(other, Objects):
            together = objects.joined(one, other)
            return together if together in {None, one, other} or self._can_be(together) else None
        if isinstance(one, Booleans) and isinstance(other, Booleans):
            values = one.values & other.values
            return Booleans(values, either(one.lost, other.lost)) if values else None
        return Null(either(one.lost, other.lost))
