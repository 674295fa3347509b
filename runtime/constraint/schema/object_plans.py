"""A set of objects -> how they are written: fields in order, and which numbers of names are possible.

The library lets further names repeat, so more than one of them counts for nothing towards ``minProperties``. Knows
states and languages; knows no keyword.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

from runtime.constraint.schema.context import Context
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.plan import Field, ObjectPlan
from runtime.constraint.schema.regex.automaton import is_nothing
from runtime.constraint.schema.regex.language import LanguageTooLarge
from runtime.constraint.schema.regex.spelling import spelled_once
from runtime.constraint.schema.state import NOTHING, State, both
from runtime.errors import SchemaRefused

MAX_CHOICES = 128
"""Ways to choose which optional names are there, where their number is bounded."""
MAX_OPTIONAL = 500
MAX_PATTERNS = 12
_ANY_OVERLAPS = 4


def object_plans(context: Context, one: Objects, place: str) -> list[ObjectPlan]:
    """Every way to write objects of a set. Raises SchemaRefused."""
    fields, absent = _fields(context, one)
    if not set(absent).isdisjoint(one.required):
        return []
    patterns, rest = _further(context, one, place)
    if rest is None and not patterns:
        absent = []
    optional = [field for field in fields if not field.required]
    if len(optional) > MAX_OPTIONAL:
        problem = f"has {len(optional):,} optional names, at most {MAX_OPTIONAL} are allowed in one object"
        raise SchemaRefused("properties", place, problem)
    plan = ObjectPlan(tuple(fields), tuple(absent), tuple(patterns), rest)
    least = max(one.least - (len(fields) - len(optional)), 0)
    most = None if one.most is None else one.most - (len(fields) - len(optional))
    is_open = rest is not None or any(state != NOTHING for _, state in patterns)
    if most is not None and not is_open and most >= len(optional):
        most = None
    if most is None and least == 0:
        return [plan]
    if most is not None and most < least:
        return []
    return _counted(plan, optional, least, most, place, is_open=is_open)


def _fields(context: Context, one: Objects) -> tuple[list[Field], list[str]]:
    fields, absent, required = [], [], set(one.required)
    for name in one.names():
        state = one.at(name, context.languages)
        if context.unwritable(state):
            absent.append(name)
        else:
            fields.append(Field(name, state, name in required))
    return fields, absent


def _counted(
    plan: ObjectPlan, optional: list[Field], least: int, most: int | None, place: str, *, is_open: bool
) -> list[ObjectPlan]:
    """One plan for each choice of optional names, such that the number of names is between the bounds."""
    if not is_open and most is None:
        return _at_least(plan, optional, least, place)
    if is_open and most is None and optional:
        named = _at_least(plan, optional, least, place) if least <= len(optional) else []
        fewer = _exactly(plan, optional, least - 1) if least - 1 <= len(optional) else []
        return _within(named + [_with_further(one, 1, None) for one in fewer], "minProperties", place)
    plans = []
    for count in range(min(len(optional), len(optional) if most is None else most) + 1):
        missing = max(least - count, 0)
        if missing and not is_open:
            continue
        if missing <= 1:
            if comb(len(optional), count) > MAX_CHOICES:
                raise _too_many("maxProperties", place)
            room = None if most is None else most - count
            plans += [_with_further(one, missing, room) if is_open else one for one in _exactly(plan, optional, count)]
    if not plans and is_open:
        problem = (
            "counts names that the schema does not list, and such names may repeat; at most one of them is counted"
        )
        raise SchemaRefused("minProperties", place, problem)
    return _within(plans, "maxProperties", place)


def _at_least(plan: ObjectPlan, optional: list[Field], least: int, place: str) -> list[ObjectPlan]:
    """Which optional names are the first ``least`` ones that are there: later ones stay optional."""
    if least > len(optional):
        return []
    if comb(len(optional), least) > MAX_CHOICES:
        raise _too_many("minProperties", place)
    plans = []
    for chosen in combinations(range(len(optional)), least):
        required = {optional[i].name for i in chosen}
        missing = {optional[i].name for i in range(max(chosen, default=-1)) if i not in chosen}
        plans.append(_chosen(plan, required, missing))
    return plans


def _exactly(plan: ObjectPlan, optional: list[Field], count: int) -> list[ObjectPlan]:
    names = {field.name for field in optional}
    choices = combinations([field.name for field in optional], count)
    return [_chosen(plan, set(chosen), names - set(chosen)) for chosen in choices]


def _chosen(plan: ObjectPlan, required: set[str], missing: set[str]) -> ObjectPlan:
    fields = tuple(
        Field(field.name, field.state, field.required or field.name in required)
        for field in plan.fields
        if field.name not in missing
    )
    absent = (*plan.absent, *(field.name for field in plan.fields if field.name in missing))
    return ObjectPlan(fields, absent, plan.patterns, plan.rest)


def _with_further(plan: ObjectPlan, least: int, most: int | None) -> ObjectPlan:
    return ObjectPlan(plan.fields, plan.absent, plan.patterns, plan.rest, least, most)


def _within(plans: list[ObjectPlan], keyword: str, place: str) -> list[ObjectPlan]:
    if len(plans) > 2 * MAX_CHOICES:
        raise _too_many(keyword, place)
    return plans


def _too_many(keyword: str, place: str) -> SchemaRefused:
    problem = f"lets optional names be chosen in over {MAX_CHOICES} ways; list fewer of them or leave it out"
    return SchemaRefused(keyword, place, problem)


def _further(context: Context, one: Objects, place: str) -> tuple[list[tuple[str, State]], State | None]:
    """What names hold that no member spells out: by pattern, and those outside every pattern."""
    languages = list(dict.fromkeys(language for members in one.members for language, _ in members.patterns))
    rest = both(*(members.rest for members in one.members))
    closed = context.unwritable(rest)
    found: list[tuple[str, State]] = []
    try:
        for inside in _regions(context, languages, place):
            state = _region_state(one, inside)
            if closed and context.unwritable(state):
                continue
            outside = [language for language in languages if language not in inside]
            overlapping = [language for language in outside if not _disjoint(context, language, min(inside))]
            arena = context.languages
            region = arena.both([*inside, *(arena.without(language) for language in overlapping)])
            named = [name for name in one.names() if arena.holds(region, name)]
            region = arena.both([region, arena.without(arena.either(map(arena.text, named)))]) if named else region
            found.append((spelled_once(arena, region), NOTHING if context.unwritable(state) else state))
    except LanguageTooLarge as error:
        raise SchemaRefused("patternProperties", place, "has a pattern that is too large to be told apart") from error
    return found, None if closed else rest


def _region_state(one: Objects, inside: tuple[int, ...]) -> State:
    parts = []
    for members in one.members:
        matched = [state for language, state in members.patterns if language in inside]
        parts.append(both(*matched) if matched else members.rest)
    return both(*parts)


def _regions(context: Context, languages: list[int], place: str) -> list[tuple[int, ...]]:
    """The sets of patterns that one name can match at once."""
    if len(languages) > MAX_PATTERNS:
        problem = f"has {len(languages)} patterns for one object, at most {MAX_PATTERNS} are allowed"
        raise SchemaRefused("patternProperties", place, problem)
    regions: list[tuple[int, ...]] = [(language,) for language in languages]
    if all(_disjoint(context, one, other) for one, other in combinations(languages, 2)):
        return regions
    if len(languages) > _ANY_OVERLAPS:
        problem = f"has {len(languages)} patterns that overlap, at most {_ANY_OVERLAPS} are allowed"
        raise SchemaRefused("patternProperties", place, problem)
    arena = context.languages
    subsets = (chosen for size in range(1, len(languages) + 1) for chosen in combinations(languages, size))
    return [
        chosen
        for chosen in subsets
        if not is_nothing(
            arena, arena.both([*chosen, *(arena.without(other) for other in languages if other not in chosen)])
        )
    ]


def _disjoint(context: Context, one: int, other: int) -> bool:
    return is_nothing(context.languages, context.languages.both((one, other)))
