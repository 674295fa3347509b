"""``enum`` and ``const``: the cover of listed values, and of every value but one.

Numbers are equal by value, whatever their spelling; true is no number. Knows no other keyword.
"""

from __future__ import annotations

from runtime.constraint.schema import numbers, strings
from runtime.constraint.schema.arrays import Arrays, Items
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Booleans, Cover, Null, Simple
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.lost import Lost
from runtime.constraint.schema.objects import Members, Objects, absent, present
from runtime.constraint.schema.references import Located
from runtime.constraint.schema.state import ANYTHING, NOTHING
from runtime.constraint.schema.strings import Strings


def cover_of_values(context: Context, here: Located, values: list[JsonValue]) -> Cover:
    """Exactly the listed values."""
    cover: dict[str, dict[Simple, None]] = {}
    texts = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    if texts:
        cover["string"] = {Strings(context.languages.anything, listed=texts): None}
    for value in values:
        if not isinstance(value, str):
            kind, simple = _simple(context, here, value)
            cover.setdefault(kind, {})[simple] = None
    return {kind: tuple(sets) for kind, sets in cover.items()}


def _simple(context: Context, here: Located, value: JsonValue) -> tuple[str, Simple]:
    if value is None:
        return "null", Null()
    if isinstance(value, bool):
        return "boolean", Booleans(frozenset({value}))
    if isinstance(value, list):
        prefix = tuple(context.constant(item, here.place, here.scope) for item in value)
        return "array", Arrays((Items(prefix, NOTHING, told=False),), len(value), len(value))
    if isinstance(value, dict):
        names = tuple((name, context.constant(item, here.place, here.scope)) for name, item in value.items())
        return "object", Objects((Members(names, (), NOTHING, told=False),), tuple(value))
    return "number", numbers.point(value)


def cover_besides_values(context: Context, here: Located, values: list[JsonValue]) -> Cover:
    """Every value but the listed ones."""
    texts = [value for value in values if isinstance(value, str)]
    cover = context.full()
    if texts:
        cover["string"] = (strings.besides(context.languages, texts),)
    for value in values:
        if not isinstance(value, str):
            kind, sets = _besides(context, here, value)
            cover = context.joined(cover, {**context.full(), kind: tuple(sets)})
    return cover


def _besides(context: Context, here: Located, value: JsonValue) -> tuple[str, list[Simple]]:
    if value is None:
        return "null", []
    if isinstance(value, bool):
        return "boolean", [Booleans(frozenset({not value}))]
    if isinstance(value, list):
        return "array", _besides_array(context, here, value)
    if isinstance(value, dict):
        return "object", _besides_object(context, here, value)
    return "number", [*numbers.besides(value)]


def _besides_array(context: Context, here: Located, value: list[JsonValue]) -> list[Simple]:
    sets: list[Simple] = [Arrays(least=len(value) + 1)]
    if value:
        sets.append(Arrays(most=len(value) - 1))
    for i, item in enumerate(value):
        differs = context.constant(item, here.place, here.scope, fails=True)
        prefix = (*(ANYTHING,) * i, differs)
        sets.append(Arrays((Items(prefix, told=False),), len(value), len(value)))
    return sets


def _besides_object(context: Context, here: Located, value: dict[str, JsonValue]) -> list[Simple]:
    sets: list[Simple] = [Objects(lost=Lost("const", here.place, "of an object cannot be negated by a further name"))]
    for name, item in value.items():
        sets += [absent(name), present(name, context.constant(item, here.place, here.scope, fails=True))]
    return sets
