"""``unevaluatedProperties`` and ``unevaluatedItems``: what holds for values of which nothing else said anything.

In each alternative of a cover it is known which schemas apply, and so which names and positions they tell of. Another
schema that happens to hold too could tell of more: then fewer texts are admitted than the standard allows, and the
alternatives as they were before are spare.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.constraint.schema.arrays import Arrays, Items
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Cover, Simple, spare
from runtime.constraint.schema.document import JsonValue, pointer
from runtime.constraint.schema.objects import Members, Objects
from runtime.constraint.schema.references import Located
from runtime.constraint.schema.state import ANYTHING, State


def with_unevaluated(context: Context, here: Located, words: dict[str, JsonValue], cover: Cover) -> Cover:
    """The cover, further held to the two keywords where the schema has them."""
    found = dict(cover)
    for key, kind in (("unevaluatedProperties", "object"), ("unevaluatedItems", "array")):
        if key in words:
            state = context.state(words[key], pointer(here.place, key), here.scope)
            sets = cover.get(kind, ())
            held = tuple(_held(one, state) for one in sets)
            found[kind] = held if _is_all(sets) else (*held, *(spare(one, key, here.place) for one in sets))
    return {kind: sets for kind, sets in found.items() if sets}


def _is_all(sets: tuple[Simple, ...]) -> bool:
    """Whether nothing but what the one alternative says can tell of a value; ``contains`` tells of items."""
    return len(sets) == 1 and not (isinstance(sets[0], Arrays) and sets[0].contains)


def _held(one: Simple, state: State) -> Simple:
    if one.lost:
        return one
    return _objects(one, state) if isinstance(one, Objects) else _arrays(one, state) if isinstance(one, Arrays) else one


def _objects(one: Objects, state: State) -> Objects:
    told = [members for members in one.members if members.told]
    names = tuple(dict.fromkeys((name, ANYTHING) for members in told for name, _ in members.names))
    patterns = tuple(dict.fromkeys((language, ANYTHING) for members in told for language, _ in members.patterns))
    everything = any(members.all_told for members in told)
    rest = ANYTHING if everything else state
    return replace(one, members=(*one.members, Members(names, patterns, rest, all_told=True)))


def _arrays(one: Arrays, state: State) -> Arrays:
    told = [items for items in one.items if items.told]
    prefix = (ANYTHING,) * max((len(items.prefix) for items in told), default=0)
    everything = any(items.all_told for items in told)
    return replace(one, items=(*one.items, Items(prefix, ANYTHING if everything else state, all_told=True)))
