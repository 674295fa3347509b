"""One schema object as its draft reads it -> the keywords of draft 2020-12 that mean the same.

Checks that each value is of the kind that its keyword wants. Drops annotations and whatever the draft does not know,
``x-guidance`` among them. Knows the drafts' differences; knows no meaning.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.constraint.schema.document import JsonValue
from runtime.errors import SchemaRefused

DRAFTS = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
    "https://json-schema.org/draft/2019-09/schema": 2019,
    "https://json-schema.org/draft/2020-12/schema": 2020,
}
NEWEST = 2020
KINDS = ("null", "boolean", "number", "string", "array", "object")
_SINCE = {
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
    "if": 7,
    "then": 7,
    "else": 7,
    "dependentRequired": 2019,
    "dependentSchemas": 2019,
    "maxContains": 2019,
    "minContains": 2019,
    "unevaluatedItems": 2019,
    "unevaluatedProperties": 2019,
    "$recursiveRef": 2019,
    "prefixItems": 2020,
    "$dynamicRef": 2020,
}
_COUNTS = "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains"
_NUMBERS = "minimum maximum exclusiveMinimum exclusiveMaximum"
_SCHEMAS = (
    "items additionalItems additionalProperties contains propertyNames not if then else"
    " unevaluatedItems unevaluatedProperties"
)
_LISTS = "allOf anyOf oneOf prefixItems"
_MAPS = "properties patternProperties dependentSchemas"
_TEXTS = "pattern format $ref $dynamicRef $recursiveRef"


def draft_of(schema: dict[str, JsonValue], otherwise: int) -> int:
    """The draft that ``$schema`` names: 4, 6, 7, 2019 or 2020; ``otherwise`` where it names none of them."""
    named = schema.get("$schema")
    return DRAFTS.get(named.rstrip("#"), otherwise) if isinstance(named, str) else otherwise


def keywords(schema: dict[str, JsonValue], draft: int, place: str) -> dict[str, JsonValue]:
    """The keywords that demand something, in the schema's order, as draft 2020-12 spells them."""
    reference = schema.get("$ref")
    if draft <= 7 and isinstance(reference, str):
        return {"$ref": reference}
    found = {key: value for key, value in schema.items() if key in _CHECKS and _SINCE.get(key, 0) <= draft}
    for key, value in found.items():
        _check(key, value, draft, place)
    _older_spellings(found, draft)
    if draft < 2020 or isinstance(schema.get("items"), list):
        _older_items(found)
    else:
        found.pop("additionalItems", None)
    if "dependencies" in found:
        _older_dependencies(found)
    return found


def _older_spellings(found: dict[str, JsonValue], draft: int) -> None:
    """A boolean ``exclusiveMinimum`` of draft 4 makes the number of ``minimum`` exclusive."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(found.get(exclusive), bool):
            flag = found.pop(exclusive)
            if flag and bound in found:
                found[exclusive] = found.pop(bound)
    if draft < 2019:
        found.pop("unevaluatedItems", None)


def _older_items(found: dict[str, JsonValue]) -> None:
    """``items`` as a list is ``prefixItems``, and ``additionalItems`` beside it ``items``."""
    rest = found.pop("additionalItems", None)
    if isinstance(found.get("items"), list):
        found["prefixItems"] = found.pop("items")
        if rest is not None:
            found["items"] = rest


def _older_dependencies(found: dict[str, JsonValue]) -> None:
    """``dependencies`` became ``dependentRequired`` (a list of names) and ``dependentSchemas``."""
    dependencies = found.pop("dependencies")
    entries = dependencies if isinstance(dependencies, dict) else {}
    for new, is_list in (("dependentRequired", True), ("dependentSchemas", False)):
        part: dict[str, JsonValue] = {
            name: value for name, value in entries.items() if isinstance(value, list) is is_list
        }
        older = found.get(new)
        if part:
            found[new] = {**part, **older} if isinstance(older, dict) else part


def _check(key: str, value: JsonValue, draft: int, place: str) -> None:
    fits, wanted = _CHECKS[key]
    if key in {"exclusiveMinimum", "exclusiveMaximum"} and isinstance(value, bool):
        return
    if key == "items" and isinstance(value, list):
        fits, wanted = _CHECKS["prefixItems"]
        if not value:
            return
    if not fits(value):
        raise SchemaRefused(key, place, f"must be {wanted}")


def _is_schema(value: JsonValue) -> bool:
    return isinstance(value, dict | bool)


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _is_count(value: JsonValue) -> bool:
    return _is_number(value) and value == int(value) and value >= 0  # type: ignore[arg-type]


def _is_names(value: JsonValue) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_schema_map(value: JsonValue) -> bool:
    return _all(value, _is_schema)


def _is_text(value: JsonValue) -> bool:
    return isinstance(value, str)


def _is_type(value: JsonValue) -> bool:
    known = {*KINDS, "integer"}
    return (
        value in known
        if isinstance(value, str)
        else isinstance(value, list)
        and bool(value)
        and (all(isinstance(name, str) and name in known for name in value))
    )


def _all(value: JsonValue, fits: Callable[[JsonValue], bool]) -> bool:
    return isinstance(value, dict) and all(fits(part) for part in value.values())


_CHECKS: dict[str, tuple[Callable[[JsonValue], bool], str]] = {
    **dict.fromkeys(_COUNTS.split(), (_is_count, "a whole number, 0 or greater")),
    **dict.fromkeys(_NUMBERS.split(), (_is_number, "a number")),
    "multipleOf": (_is_positive, "a number above 0"),
    **dict.fromkeys(_SCHEMAS.split(), (_is_schema, "a schema: an object, true or false")),
    **{
        key: (
            lambda value: isinstance(value, list) and bool(value) and all(map(_is_schema, value)),
            "a list of schemas",
        )
        for key in _LISTS.split()
    },
    **dict.fromkeys(_MAPS.split(), (_is_schema_map, "an object whose values are schemas")),
    **dict.fromkeys(_TEXTS.split(), (_is_text, "a string")),
    "type": (_is_type, f"one or a list of {', '.join(KINDS)}, integer"),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "const": (lambda value: True, "any value"),
    "required": (_is_names, "a list of names"),
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "dependentRequired": (lambda value: _all(value, _is_names), "an object whose values are lists of names"),
    "dependencies": (
        lambda value: _all(value, lambda part: _is_schema(part) or _is_names(part)),
        "an object whose values are schemas or lists of names",
    ),
}
