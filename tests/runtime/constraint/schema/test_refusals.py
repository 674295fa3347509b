"""What is refused: the keyword, its place, and for a limit the limit and the measured size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.constraint.schema.rewriting import rewritten
from runtime.errors import RequestError, SchemaRefused

_SELF = {"allOf": [{"$ref": "#"}]}
_ENDLESS = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
_DYNAMIC = {"$defs": {"a": {"$id": "a", "$dynamicAnchor": "n"}}, "$dynamicAnchor": "n", "not": {"$dynamicRef": "#n"}}
_TOLD_TWICE = {
    "oneOf": [
        {"anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}], "unevaluatedProperties": False},
        {"type": "object", "required": ["a", "b"]},
    ]
}
_FIVE = {"type": "string", "pattern": "^[a-z]{5}$", "maxLength": 3}
_CHOICES = {
    "type": "object",
    "properties": {f"p{i}": {} for i in range(40)},
    "additionalProperties": False,
    "maxProperties": 20,
}


@pytest.mark.parametrize(
    ("schema", "keyword", "place", "says"),
    [
        (
            {"properties": {"a/b": {"$ref": "https://example.com/x"}}},
            "$ref",
            "/properties/a~1b",
            "outside the document",
        ),
        ({"$ref": "#/$defs/x"}, "$ref", "", "has no schema"),
        (_DYNAMIC, "$dynamicRef", "/not", "use $ref"),
        (_SELF, "$ref", "", "without going into a value"),
        (_ENDLESS, "schema", "", "admits no value"),
        (False, "schema", "", "admits no value"),
        ({"type": "string", "const": 1}, "schema", "", "admits no value"),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 1}, "schema", "", "admits no value"),
        (_FIVE, "pattern", "", "no text satisfies '^[a-z]{5}$' together with maxLength 3"),
        (
            {"type": "string", "pattern": "^(a|bb)*c$", "minLength": 2, "maxLength": 0},
            "maxLength",
            "",
            "both minLength 2 and maxLength 0",
        ),
        ({"type": "string", "pattern": "^a?b?$", "minLength": 3, "maxLength": 9}, "pattern", "", "3 and maxLength 9"),
        ({"type": "string", "format": "date", "maxLength": 9}, "format", "", "'date' together with maxLength 9"),
        ({"required": ["a"], "type": "object", "properties": {"a": _FIVE}}, "pattern", "/properties/a", "maxLength 3"),
        ({"type": "array", "items": _FIVE, "minItems": 1}, "pattern", "/items", "together with maxLength 3"),
        ({"allOf": [{"type": "string"}, {"allOf": [_FIVE]}]}, "pattern", "/allOf/1/allOf/0", "maxLength 3"),
        ({"type": "string", "pattern": "^a{4}", "allOf": [{"maxLength": 3}]}, "schema", "", "contradict each other"),
        ({"type": "string", "pattern": "^[]$"}, "pattern", "", "no text satisfies '^[]$'"),
        (
            {
                "required": ["a", "b"],
                "properties": {"a": {**_FIVE, "type": ["string", "null"]}, "b": False},
                "type": "object",
            },
            "schema",
            "",
            "contradict each other",
        ),
        ({"not": {"not": _FIVE}, "type": "string"}, "pattern", "/not/not", "together with maxLength 3"),
        ({"items": {"type": "text"}}, "type", "/items", "null, boolean, number, string, array, object, integer"),
        ({"minLength": -1}, "minLength", "", "a whole number, 0 or greater"),
        ({"multipleOf": 0}, "multipleOf", "", "above 0"),
        ({"required": "a"}, "required", "", "a list of names"),
        ({"properties": {"a": 1}}, "properties", "", "whose values are schemas"),
        ([], "schema", "", "must be an object, true or false"),
        ({"items": {"pattern": "(a)\\1"}}, "pattern", "/items", "refers back to a group"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems", "", "items of an enum"),
        ({"type": "object", "minProperties": 2}, "minProperties", "", "may repeat"),
        (_CHOICES, "maxProperties", "", "over 128 ways"),
        ({"type": "number", "not": {"multipleOf": 2}}, "multipleOf", "/not", "cannot be negated"),
        ({"type": "string", "not": {"format": "uri"}}, "format", "/not", "cannot be negated"),
        ({"oneOf": [{"format": "email"}, {"const": '"a b"@c.de'}]}, "format", "/oneOf/0", "cannot be negated"),
        (_TOLD_TWICE, "unevaluatedProperties", "/oneOf/0", "cannot be negated"),
        ({"type": "number", "minimum": 1e20}, "minimum", "", "beyond 2**53"),
        ({"type": "integer", "maximum": -1e20}, "minimum", "", "beyond 2**53"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-70}, "minimum", "", "over 60 decimals"),
        ({"type": "string", "minLength": 2**31}, "minLength", "", "2,147,483,648 characters, at most 2,147,483,647"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "type", "/oneOf/0", "cannot be negated"),
        ({"type": "array", "minItems": 3000}, "minItems", "", "3,000 items, at most 2,000"),
        ({"enum": list(range(20_001))}, "enum", "", "20,001 items, at most 20,000"),
        ({"properties": {str(i): {} for i in range(501)}}, "properties", "", "501 optional names, at most 500"),
        ({"enum": list(range(2_001))}, "schema", "", "2,001 alternatives at one place, at most 2,000"),
        ({"pattern": "a" * 10_001}, "pattern", "", "10,001 characters, at most 10,000"),
        ({"default": [0] * 50_000}, "schema", "", "50,002 values, at most 50,000"),
        ({"description": "é" * 500_000}, "schema", "", "at most 1,000,000 are allowed"),
        ({"const": 10**400}, "const", "", "no double holds"),
    ],
)
def test_a_refusal_names_keyword_place_and_limit(schema: Any, keyword: str, place: str, says: str) -> None:
    with pytest.raises(SchemaRefused) as refused:
        rewritten(json.dumps(schema, ensure_ascii=False))
    assert (refused.value.keyword, refused.value.place) == (keyword, place)
    assert says in str(refused.value)
    assert isinstance(refused.value, RequestError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 101 + "]" * 101, "101 deep, at most 100"),
        ('{"a": }', "is not JSON"),
        ('{"const": NaN}', "NaN is no JSON number"),
        ('{"const": 1e999}', "does not fit a double"),
        ('{"const": "\\ud800"}', "surrogate"),
        ('{"const": "\ud800"}', "surrogate"),
    ],
)
def test_text_that_is_no_schema_is_refused(text: str, says: str) -> None:
    with pytest.raises(SchemaRefused, match=says):
        rewritten(text)


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({"anyOf": [_FIVE, {"type": "integer"}]}, {"type": "integer"}),
        ({"type": ["string", "null"], "pattern": "a{4}", "maxLength": 3}, {"type": "null"}),
        ({"type": ["string", "null"], "pattern": "^[]$"}, {"type": "null"}),
        (
            {"type": "object", "properties": {"a": _FIVE}},
            {"type": "object", "properties": {"a": False}, "additionalProperties": True},
        ),
    ],
)
def test_strings_that_no_text_can_be_are_left_out_where_something_else_is_admitted(schema: Any, left: Any) -> None:
    assert json.loads(rewritten(json.dumps(schema))) == left


def _doubling(depth: int) -> dict[str, Any]:
    names = [f"d{i}" for i in range(depth)]
    pairs = zip(names, [*names[1:], "end"], strict=True)
    definitions: dict[str, Any] = {name: {"allOf": [{"$ref": f"#/$defs/{after}"}] * 2} for name, after in pairs}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, "end": {"type": "string"}}}


def test_shared_schemas_cost_what_they_hold_and_not_what_they_unfold_to() -> None:
    assert json.loads(rewritten(json.dumps(_doubling(60)))) == {"type": "string"}


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"anyOf": [{"required": [f"a{i}"]}, {"required": [f"b{i}"]}]} for i in range(20)]},
        {"dependentRequired": {f"a{i}": [f"a{i + 1}"] for i in range(400)}},
        {"oneOf": [{"type": "object", "required": [f"k{i}"]} for i in range(210)]},
        {"type": "string", "not": {"pattern": "^(a|b)*a(a|b){14}$"}},
        {"type": "string", "not": {"enum": [f"value {i}" for i in range(19_000)]}},
    ],
)
def test_what_grows_without_bound_ends_at_a_limit(schema: Any) -> None:
    with pytest.raises(SchemaRefused, match=r"alternatives|too large|pairs"):
        rewritten(json.dumps(schema))


def test_annotations_and_a_clients_options_leave_no_trace() -> None:
    schema = {"type": "null", "x-guidance": {"lenient": True}, "nullable": True, "format": "color", "title": "t"}
    assert json.loads(rewritten(json.dumps(schema))) == {"type": "null"}
    assert json.loads(rewritten("true")) == {}
