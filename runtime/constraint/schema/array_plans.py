"""A set of arrays -> how they are written: by position, with ``contains`` and ``uniqueItems`` unfolded.

Items that ``contains`` asks for stand among the first ones, and items that have to differ come in the order of their
``enum``: fewer arrays than the standard admits. Knows states; knows no text.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

from runtime.constraint.schema.arrays import Arrays, Contains
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Booleans, Null
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.numbers import Numbers, the_only
from runtime.constraint.schema.plan import ArrayPlan
from runtime.constraint.schema.references import Located
from runtime.constraint.schema.state import NOTHING, State, both
from runtime.constraint.schema.strings import Strings
from runtime.errors import SchemaRefused

MAX_ITEMS = 2_000
"""Items that an array gets at most where it may have more, and that it may have to have."""
MAX_POSITIONS = 8
MAX_CHOICES = 256


def array_plans(context: Context, one: Arrays, place: str) -> list[ArrayPlan]:
    """Every way to write arrays of a set. Raises SchemaRefused."""
    if one.least > MAX_ITEMS:
        problem = f"asks for {one.least:,} items, at most {MAX_ITEMS:,} are allowed"
        raise SchemaRefused("minItems", place, problem)
    most = one.most if one.most is None else min(one.most, MAX_ITEMS)
    plans = [ArrayPlan(tuple(one.at(i) for i in range(one.prefix_length())), one.rest(), one.least, most)]
    for contains in one.contains:
        plans = [found for plan in plans for found in _containing(plan, contains)]
        if len(plans) > MAX_CHOICES:
            raise SchemaRefused("contains", contains.place, f"can be met in over {MAX_CHOICES} ways at once")
    plans = [found for plan in plans if (found := _cut(context, plan)) is not None]
    if one.unique is not None:
        plans = [found for plan in plans for found in _unique(context, plan, one.unique)]
    return plans


def _cut(context: Context, plan: ArrayPlan) -> ArrayPlan | None:
    """The plan up to the first position where no item can be; None where one has to be there."""
    most, prefix = plan.most, plan.prefix
    for i, state in enumerate(prefix):
        if context.unwritable(state):
            most, prefix = min(i, i if most is None else most), prefix[:i]
            break
    rest = plan.rest
    if rest is not None and (context.unwritable(rest) or len(prefix) < len(plan.prefix)):
        rest, most = None, min(len(prefix), len(prefix) if most is None else most)
    if most is not None and most <= len(prefix):
        prefix, rest = prefix[:most], None
    return None if most is not None and most < plan.least else replace(plan, prefix=prefix, rest=rest, most=most)


def _containing(plan: ArrayPlan, contains: Contains) -> list[ArrayPlan]:
    """One plan for each number and place of the items that are asked for."""
    least, most = contains.least, contains.most
    if most is None:
        if least == 0:
            return [plan]
        places = _places(plan, least)
        return [_placed(plan, chosen, contains.wanted, None) for chosen in places]
    counts = range(least, min(most, least + 2) + 1)
    return [
        _placed(plan, chosen, contains.wanted, contains.unwanted) for count in counts for chosen in _places(plan, count)
    ]


def _places(plan: ArrayPlan, count: int) -> list[tuple[int, ...]]:
    """Positions for ``count`` items: any of the first few for one, the very first ones for more."""
    if plan.most is not None and count > plan.most:
        return []
    if count != 1:
        return [tuple(range(count))]
    return [(i,) for i in range(MAX_POSITIONS if plan.most is None else min(MAX_POSITIONS, plan.most))]


def _placed(plan: ArrayPlan, places: tuple[int, ...], wanted: State, unwanted: State | None) -> ArrayPlan:
    length = max(len(plan.prefix), max(places, default=-1) + 1)
    rest = NOTHING if plan.rest is None else plan.rest
    prefix = [*plan.prefix, *(rest,) * (length - len(plan.prefix))]
    for i, state in enumerate(prefix):
        prefix[i] = both(state, wanted) if i in places else state if unwanted is None else both(state, unwanted)
    rest = rest if unwanted is None else both(rest, unwanted)
    return ArrayPlan(tuple(prefix), rest, max(plan.least, max(places, default=-1) + 1), plan.most)


def _unique(context: Context, plan: ArrayPlan, place: str) -> list[ArrayPlan]:
    if plan.most is not None and plan.most <= 1:
        return [plan]
    if plan.rest is None and all(context.unwritable(both(a, b)) for a, b in combinations(plan.prefix, 2)):
        return [plan]
    values = _values(context, plan.rest) if plan.rest is not None and not plan.prefix else None
    if values is None:
        problem = "is supported for items of an enum, at most one item, and items that differ by position"
        raise SchemaRefused("uniqueItems", place, problem)
    here = Located(True, place, context.references.root.scope)
    states = [context.constant(value, place, here.scope) for value in values]
    plans: list[ArrayPlan] = []
    for size in range(plan.least, min(len(states), len(states) if plan.most is None else plan.most) + 1):
        if len(plans) + comb(len(states), size) > MAX_CHOICES:
            break
        plans += [ArrayPlan(chosen, None, size, size) for chosen in combinations(states, size)]
    if not plans and plan.least <= len(states):
        problem = f"lets {plan.least} of {len(states)} values be chosen in over {MAX_CHOICES} ways"
        raise SchemaRefused("uniqueItems", place, problem)
    return plans


def _values(context: Context, state: State) -> list[JsonValue] | None:
    """All values of a state, where they can be listed."""
    values: list[JsonValue] = []
    for sets in context.cover(state).values():
        for one in sets:
            if one.lost and one.lost.spare:
                continue
            if isinstance(one, Null):
                values.append(None)
            elif isinstance(one, Booleans):
                values += sorted(one.values)
            elif isinstance(one, Strings) and one.listed is not None:
                values += one.listed
            elif isinstance(one, Numbers) and (number := the_only(one)) is not None:
                values.append(number)
            else:
                return None
    return list({repr(value): value for value in values}.values())
