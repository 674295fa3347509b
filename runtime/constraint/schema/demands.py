"""What a schema admits: each keyword of draft 2020-12 as a cover, all of them intersected.

The rules, by which what is returned equals what the standard says, or is less where a comment says so:
``anyOf`` is the union; ``allOf`` the intersection; ``oneOf`` the union of each branch without the others that it
overlaps; ``not`` the complement; ``if`` the union of (if and then) and (not if and else); ``dependentSchemas`` the
union of (name absent) and (name present, and the schema). Knows no text and no library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runtime.constraint.schema.arrays import Arrays, Contains, Items
from runtime.constraint.schema.constants import cover_of_values
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Cover, Simple, sifted, spare, united, untold
from runtime.constraint.schema.discriminators import marks_of, unmarked_pairs
from runtime.constraint.schema.document import JsonValue, pointer
from runtime.constraint.schema.keywords import KINDS, keywords
from runtime.constraint.schema.numbers import numbers_of
from runtime.constraint.schema.objects import Members, Objects, absent
from runtime.constraint.schema.references import Located
from runtime.constraint.schema.state import ANYTHING, NOTHING, State
from runtime.constraint.schema.strings import Strings, language_of, strings_of, whole_language
from runtime.constraint.schema.unevaluated import with_unevaluated
from runtime.errors import SchemaRefused

Words = dict[str, JsonValue]


def met(context: Context, here: Located) -> Cover:
    """What a schema admits. Raises SchemaRefused."""
    schema = here.schema
    if not isinstance(schema, dict):
        if schema is True:
            return context.full()
        if schema is False:
            return {}
        raise SchemaRefused("schema", here.place, "must be an object, true or false")
    words = keywords(schema, here.scope.draft, here.place)
    cover = _own(context, here, words)
    for key, rule in _RULES.items():
        if key in words:
            cover = rule(context, here, words, cover)
    return sifted(with_unevaluated(context, here, words, cover))


def child(context: Context, here: Located, schema: JsonValue, *steps: str | int, fails: bool = False) -> State:
    """The state of a schema inside ``here``."""
    return context.state(schema, pointer(here.place, *steps), here.scope, fails=fails)


def _own(context: Context, here: Located, words: Words) -> Cover:
    """What the keywords about values of one kind admit."""
    types = words.get("type", list(KINDS))
    kinds = {types} if isinstance(types, str) else set(types) if isinstance(types, list) else set()
    full = context.full()
    cover: Cover = {kind: full[kind] for kind in ("null", "boolean") if kind in kinds}
    own: dict[str, list[Simple]] = {}
    if {"number", "integer"} & kinds:
        own["number"] = [*numbers_of(words, whole="number" not in kinds)]
    if "string" in kinds:
        own["string"] = [*strings_of(context.languages, words, here.place)]
    if "array" in kinds:
        own["array"] = [*_arrays(context, here, words)]
    if "object" in kinds:
        own["object"] = [*_objects(context, here, words)]
    return {**cover, **{kind: tuple(sets) for kind, sets in own.items() if sets}}


def _objects(context: Context, here: Located, words: Words) -> list[Objects]:
    members = []
    named, matched = words.get("properties"), words.get("patternProperties")
    names = [(name, child(context, here, schema, "properties", name)) for name, schema in _entries(named)]
    patterns = [
        (
            language_of(context.languages, "patternProperties", pattern, here.place),
            child(context, here, schema, "patternProperties", pattern),
        )
        for pattern, schema in _entries(matched)
    ]
    rest = words.get("additionalProperties", True)
    if names or patterns or "additionalProperties" in words:
        state = child(context, here, rest, "additionalProperties")
        closed = "additionalProperties" in words
        members.append(Members(tuple(names), tuple(patterns), state, all_told=closed))
    required = words.get("required", [])
    names_needed = tuple(dict.fromkeys(str(name) for name in required)) if isinstance(required, list) else ()
    sizes = _count(words, "minProperties") or 0, _count(words, "maxProperties")
    objects = Objects(tuple(members), names_needed, *sizes)
    if "propertyNames" not in words:
        return [objects]
    allowed, is_all = _property_names(context, here, words["propertyNames"])
    held = replace(objects, members=(*members, *allowed))
    return [held] if is_all else [held, spare(objects, "propertyNames", here.place)]


def _property_names(context: Context, here: Located, schema: JsonValue) -> tuple[list[Members], bool]:
    """Names that a schema has to admit, and whether that is all of them.

    They are those that it lists, or those of a language; under any other name nothing may be.
    """
    state = child(context, here, schema, "propertyNames")
    if state == ANYTHING:
        return [], True
    found = [one for one in context.cover(state).get("string", ()) if isinstance(one, Strings)]
    sets = [one for one in found if not (one.lost and one.lost.spare)]
    for one in sets:
        if one.lost:
            raise one.lost.refusal()
    listed = tuple((text, ANYTHING) for one in sets for text in one.listed or ())
    whole = [whole_language(context.languages, one) for one in sets if one.listed is None]
    patterns = ((context.languages.either(whole), ANYTHING),) if whole else ()
    return [Members(listed, patterns, NOTHING, told=False)], len(sets) == len(found)


def _arrays(context: Context, here: Located, words: Words) -> list[Arrays]:
    items = []
    if "items" in words or "prefixItems" in words:
        listed = words.get("prefixItems")
        prefix = [
            child(context, here, schema, "prefixItems", i)
            for i, schema in enumerate(listed if isinstance(listed, list) else [])
        ]
        rest = child(context, here, words.get("items", True), "items")
        items.append(Items(tuple(prefix), rest, all_told="items" in words))
    contains: tuple[Contains, ...] = ()
    if "contains" in words:
        wanted, unwanted = (child(context, here, words["contains"], "contains", fails=fails) for fails in (False, True))
        least, most = _count(words, "minContains"), _count(words, "maxContains")
        contains = (Contains(wanted, unwanted, 1 if least is None else least, most, here.place),)
    unique = here.place if words.get("uniqueItems") is True else None
    least_items, most_items = _count(words, "minItems") or 0, _count(words, "maxItems")
    if most_items is not None and most_items < least_items:
        return []
    return [Arrays(tuple(items), least_items, most_items, contains, unique)]


def _values(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    listed = words.get("enum")
    if isinstance(listed, list):
        cover = context.joined(cover, cover_of_values(context, here, listed))
    if "const" in words:
        cover = context.joined(cover, cover_of_values(context, here, [words["const"]]))
    return cover


def _reference(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in words:
            found = context.references.resolve(str(words[keyword]), keyword, here.place, here.scope)
            cover = context.joined(cover, context.cover(context.state(found.schema, found.place, found.scope)))
    return cover


def _all_of(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    for state in _branches(context, here, words, "allOf"):
        cover = context.joined(cover, context.cover(state))
    return cover


def _any_of(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    branches = [context.joined(cover, context.cover(state)) for state in _branches(context, here, words, "anyOf")]
    return united(sifted(branch, vital=True) for branch in branches)


def _one_of(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    """Each branch without those that it overlaps: where two are proven disjoint, their complements add nothing."""
    states = _branches(context, here, words, "oneOf")
    covers = [context.joined(cover, context.cover(state)) for state in states]
    marks = [marks_of(context, cover) for cover in covers]
    alone = list(covers)
    for i, j in sorted(unmarked_pairs(marks)):
        if context.joined(covers[i], covers[j]):
            alone[i] = context.joined(alone[i], _complement(context, states[j]))
            alone[j] = context.joined(alone[j], _complement(context, states[i]))
    return united(sifted(branch, vital=True) for branch in alone)


def _not(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    state = child(context, here, words["not"], "not")
    return sifted(context.joined(cover, _complement(context, state)), vital=True)


def _if(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    if "then" not in words and "else" not in words:
        return cover
    state = child(context, here, words["if"], "if")
    then, otherwise = (context.cover(child(context, here, words.get(key, True), key)) for key in ("then", "else"))
    holds = context.joined(context.joined(cover, context.cover(state)), then)
    fails = context.joined(context.joined(cover, _complement(context, state)), otherwise)
    return united((sifted(holds, vital=True), sifted(fails, vital=True)))


def _dependent(context: Context, here: Located, words: Words, cover: Cover) -> Cover:
    needed, schemas = words.get("dependentRequired"), words.get("dependentSchemas")
    for name, names in _entries(needed):
        others = tuple(str(other) for other in names) if isinstance(names, list) else ()
        cover = _depending(context, cover, name, {"object": (Objects(required=(name, *others)),)})
    for name, schema in _entries(schemas):
        state = child(context, here, schema, "dependentSchemas", name)
        present: Cover = {"object": (Objects(required=(name,)),)}
        cover = _depending(context, cover, name, context.joined(present, context.cover(state)))
    return cover


def _depending(context: Context, cover: Cover, name: str, then: Cover) -> Cover:
    without = context.joined(cover, {**context.full(), "object": (absent(name),)})
    return united((without, sifted(context.joined(cover, then), vital=True)))


def _complement(context: Context, state: State) -> Cover:
    if state == ANYTHING:
        return {}
    if state == NOTHING:
        return context.full()
    (literal,) = state
    return untold(context.cover(frozenset({literal ^ 1})))


def _branches(context: Context, here: Located, words: Words, key: str) -> list[State]:
    listed = words[key]
    schemas = listed if isinstance(listed, list) else []
    return [child(context, here, schema, key, i) for i, schema in enumerate(schemas)]


def _entries(value: JsonValue | None) -> list[tuple[str, JsonValue]]:
    return list(value.items()) if isinstance(value, dict) else []


def _count(words: Words, key: str) -> int | None:
    value = words.get(key)
    return int(value) if isinstance(value, int | float) else None


_RULES: dict[str, Callable[[Context, Located, Words, Cover], Cover]] = {
    "enum": _values,
    "const": _values,
    "$ref": _reference,
    "$dynamicRef": _reference,
    "$recursiveRef": _reference,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "dependentRequired": _dependent,
    "dependentSchemas": _dependent,
}
