"""What a schema does not admit: for each keyword the values that fail it, all of them united (De Morgan).

What no grammar can say (two equal items, some unnamed value of a kind) is carried along as lost. Knows no text and no
library.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.constraint.schema import numbers, strings
from runtime.constraint.schema.arrays import Arrays, Contains, Items
from runtime.constraint.schema.constants import cover_besides_values
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Cover, sifted, united
from runtime.constraint.schema.demands import child
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.keywords import keywords
from runtime.constraint.schema.lost import Lost
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.objects import Objects, absent, present
from runtime.constraint.schema.references import Located
from runtime.constraint.schema.state import ANYTHING, NOTHING
from runtime.errors import SchemaRefused

Words = dict[str, JsonValue]


def failed(context: Context, here: Located) -> Cover:
    """Every value that a schema does not admit. Raises SchemaRefused."""
    if not isinstance(here.schema, dict):
        raise SchemaRefused("schema", here.place, "must be an object, true or false")
    words = keywords(here.schema, here.scope.draft, here.place)
    covers: list[Cover] = [
        {
            "number": tuple(numbers.outside(words, here.place)),
            "string": tuple(strings.outside(context.languages, words, here.place)),
        }
    ]
    covers += [rule(context, here, words) for key, rule in _RULES.items() if key in words]
    return sifted({kind: sets for kind, sets in united(covers).items() if sets})


def _type(context: Context, here: Located, words: Words) -> Cover:
    types = words["type"]
    kinds = {types} if isinstance(types, str) else set(types) if isinstance(types, list) else set()
    cover = {kind: sets for kind, sets in context.full().items() if kind not in kinds}
    if "integer" in kinds and "number" not in kinds:
        cover["number"] = (Numbers(lost=Lost("type", here.place, "integer cannot be negated among numbers")),)
    return cover


def _values(context: Context, here: Located, words: Words) -> Cover:
    covers = []
    listed = words.get("enum")
    if isinstance(listed, list):
        covers.append(cover_besides_values(context, here, listed))
    if "const" in words:
        covers.append(cover_besides_values(context, here, [words["const"]]))
    return united(covers)


def _properties(context: Context, here: Located, words: Words) -> Cover:
    named = words["properties"]
    entries = named.items() if isinstance(named, dict) else ()
    failing = [(name, child(context, here, schema, "properties", name, fails=True)) for name, schema in entries]
    return {"object": tuple(present(name, state) for name, state in failing if state != NOTHING)}


def _required(_context: Context, _here: Located, words: Words) -> Cover:
    names = words["required"]
    return {"object": tuple(absent(str(name)) for name in names) if isinstance(names, list) else ()}


def _unnamed(key: str) -> Callable[[Context, Located, Words], Cover]:
    def rule(context: Context, here: Located, words: Words) -> Cover:
        schema = words[key]
        schemas = list(schema.values()) if key == "patternProperties" and isinstance(schema, dict) else [schema]
        if all(child(context, here, one, key, fails=True) == NOTHING for one in schemas):
            return {}
        kind = "array" if key == "unevaluatedItems" else "object"
        lost = Lost(key, here.place, "cannot be negated, nor told from another branch of oneOf: name the property")
        return {kind: (Arrays(lost=lost) if kind == "array" else Objects(lost=lost),)}

    return rule


def _sizes(_context: Context, _here: Located, words: Words) -> Cover:
    found = Cover()
    for kind, few, many in (("array", "minItems", "maxItems"), ("object", "minProperties", "maxProperties")):
        make = Arrays if kind == "array" else Objects
        least, most = words.get(few), words.get(many)
        sets: list[Arrays | Objects] = []
        if isinstance(least, int | float) and least:
            sets.append(make(most=int(least) - 1))
        if isinstance(most, int | float):
            sets.append(make(least=int(most) + 1))
        found[kind] = tuple(sets)
    return found


def _items(context: Context, here: Located, words: Words) -> Cover:
    listed = words.get("prefixItems")
    schemas = listed if isinstance(listed, list) else []
    sets = []
    for i, schema in enumerate(schemas):
        fails = child(context, here, schema, "prefixItems", i, fails=True)
        if fails != NOTHING:
            sets.append(Arrays((Items((*(ANYTHING,) * i, fails), told=False),), i + 1))
    rest, fails = (child(context, here, words.get("items", True), "items", fails=fails) for fails in (False, True))
    if rest == NOTHING:
        sets.append(Arrays(least=len(schemas) + 1))
    elif fails != NOTHING and not schemas:
        sets.append(Arrays(contains=(Contains(fails, rest, 1, None, here.place),)))
    elif fails != NOTHING:
        sets.append(Arrays(lost=Lost("items", here.place, "behind prefixItems cannot be negated")))
    return {"array": tuple(sets)}


def _contains(context: Context, here: Located, words: Words) -> Cover:
    wanted, unwanted = (child(context, here, words["contains"], "contains", fails=fails) for fails in (False, True))
    least, most = words.get("minContains", 1), words.get("maxContains")
    sets = []
    if least == 1:
        sets.append(Arrays((Items(rest=unwanted, told=False),)))
    elif isinstance(least, int | float) and least:
        sets.append(Arrays(contains=(Contains(wanted, unwanted, 0, int(least) - 1, here.place),)))
    if isinstance(most, int | float):
        sets.append(Arrays(contains=(Contains(wanted, unwanted, int(most) + 1, None, here.place),)))
    return {"array": tuple(sets)}


def _unique(_context: Context, here: Located, words: Words) -> Cover:
    lost = Lost("uniqueItems", here.place, "cannot be negated")
    return {"array": (Arrays(lost=lost),)} if words["uniqueItems"] is True else {}


def _reference(context: Context, here: Located, words: Words) -> Cover:
    covers = []
    for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
        if keyword in words:
            found = context.references.resolve(str(words[keyword]), keyword, here.place, here.scope)
            covers.append(context.cover(context.state(found.schema, found.place, found.scope, fails=True)))
    return united(covers)


def _all_of(context: Context, here: Located, words: Words) -> Cover:
    return united(_branches(context, here, words, "allOf", fails=True))


def _any_of(context: Context, here: Located, words: Words) -> Cover:
    cover = context.full()
    for branch in _branches(context, here, words, "anyOf", fails=True):
        cover = context.joined(cover, branch)
    return cover


def _one_of(context: Context, here: Located, words: Words) -> Cover:
    """None of the branches, or two at least."""
    none = context.full()
    for branch in _branches(context, here, words, "oneOf", fails=True):
        none = context.joined(none, branch)
    covers = _branches(context, here, words, "oneOf", fails=False)
    pairs = [context.joined(one, other) for i, one in enumerate(covers) for other in covers[i + 1 :]]
    return united([none, *pairs])


def _not(context: Context, here: Located, words: Words) -> Cover:
    return context.cover(child(context, here, words["not"], "not"))


def _if(context: Context, here: Located, words: Words) -> Cover:
    covers = []
    for key, fails in (("then", False), ("else", True)):
        if key in words:
            condition = context.cover(child(context, here, words["if"], "if", fails=fails))
            branch = context.cover(child(context, here, words[key], key, fails=True))
            covers.append(context.joined(condition, branch))
    return united(covers)


def _dependent(context: Context, here: Located, words: Words) -> Cover:
    covers: list[Cover] = []
    needed, schemas = words.get("dependentRequired"), words.get("dependentSchemas")
    for name, names in needed.items() if isinstance(needed, dict) else ():
        covers.extend(
            context.joined({"object": (present(name),)}, {"object": (absent(str(other)),)})
            for other in (names if isinstance(names, list) else ())
        )
    for name, schema in schemas.items() if isinstance(schemas, dict) else ():
        state = child(context, here, schema, "dependentSchemas", name, fails=True)
        covers.append(context.joined({"object": (present(name),)}, context.cover(state)))
    return united(covers)


def _branches(context: Context, here: Located, words: Words, key: str, *, fails: bool) -> list[Cover]:
    listed = words[key]
    schemas = listed if isinstance(listed, list) else []
    return [context.cover(child(context, here, one, key, i, fails=fails)) for i, one in enumerate(schemas)]


_RULES: dict[str, Callable[[Context, Located, Words], Cover]] = {
    "type": _type,
    "enum": _values,
    "const": _values,
    "properties": _properties,
    "required": _required,
    "patternProperties": _unnamed("patternProperties"),
    "additionalProperties": _unnamed("additionalProperties"),
    "propertyNames": _unnamed("propertyNames"),
    "unevaluatedProperties": _unnamed("unevaluatedProperties"),
    "unevaluatedItems": _unnamed("unevaluatedItems"),
    "minItems": _sizes,
    "maxItems": _sizes,
    "minProperties": _sizes,
    "maxProperties": _sizes,
    "items": _items,
    "prefixItems": _items,
    "contains": _contains,
    "uniqueItems": _unique,
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
