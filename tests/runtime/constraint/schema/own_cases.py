"""Schemas of our own that repeat what is hard in real ones: (description, schema, [(instance, valid), ...])."""

from __future__ import annotations

from typing import Any

_EVENT = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "move"}, "to": {"type": "string"}},
            "required": ["kind", "to"],
        },
        {
            "type": "object",
            "properties": {"kind": {"enum": ["wait", "rest"]}, "s": {"type": "number"}},
            "required": ["kind"],
        },
    ]
}
_TREE = {
    "$ref": "#/definitions/node",
    "definitions": {
        "node": {
            "type": "object",
            "properties": {"v": {"type": "integer"}, "c": {"type": "array", "items": {"$ref": "#/definitions/node"}}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}
_ADDRESS = {
    "type": "object",
    "properties": {"country": {"enum": ["US", "CA", "NL"]}, "zip": {"type": "string"}},
    "required": ["country", "zip"],
    "allOf": [
        {
            "if": {"properties": {"country": {"const": "US"}}},
            "then": {"properties": {"zip": {"pattern": "^[0-9]{5}$"}}},
        },
        {"if": {"properties": {"country": {"const": "NL"}}}, "then": {"properties": {"zip": {"pattern": "^[0-9]{4}"}}}},
    ],
}
_DRAFT_4 = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {"n": {"type": "number", "minimum": 0, "exclusiveMinimum": True}, "t": {"items": [{"type": "null"}]}},
    "dependencies": {"n": ["t"], "t": {"properties": {"u": {"type": "boolean"}}}},
}
OWN_CASES: dict[str, list[Any]] = {
    "oneOf with a discriminator": [
        (
            "events",
            _EVENT,
            [
                ({"kind": "move", "to": "x"}, True),
                ({"kind": "rest", "s": 1.5}, True),
                ({"kind": "move"}, False),
                ({"kind": "fly"}, False),
            ],
        )
    ],
    "oneOf of required names": [
        (
            "either name",
            {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [({"a": 1}, True), ({"b": 1}, True), ({"a": 1, "b": 1}, False), ({}, False)],
        )
    ],
    "oneOf over values that are not written": [
        (
            "what fails an integer is every fraction as well",
            {
                "oneOf": [
                    {"type": "number", "minimum": 0, "maximum": 3},
                    {"not": {"type": "integer", "minimum": 0, "maximum": 9}},
                ]
            },
            [(2, True), (-1, True), ("a", True), (1.5, False), (7, False)],
        ),
        (
            "the same below a name",
            {
                "type": "object",
                "required": ["n"],
                "oneOf": [
                    {"properties": {"n": {"enum": [1, 1.5]}}},
                    {"properties": {"n": {"not": {"type": "integer", "minimum": 0}}}},
                ],
            },
            [({"n": 1}, True), ({"n": -1}, True), ({"n": 1.5}, False), ({"n": 2}, False)],
        ),
        (
            "what fails a multiple",
            {"type": "number", "oneOf": [{"not": {"multipleOf": 2, "minimum": 0}}, {"minimum": 1, "maximum": 5}]},
            [(-4, True), (2, True), (4, True), (1, False), (2.5, False), (6, False)],
        ),
        (
            "what fails any of many",
            {
                "oneOf": [
                    {"type": "number", "anyOf": [{"not": {"type": "integer", "minimum": low}} for low in range(10)]},
                    {"enum": [100.5, 100]},
                ]
            },
            [(8, True), (100, True), (100.5, False), (9, False)],
        ),
        (
            "a branch of which nothing is written, and nothing has to be",
            {
                "not": {"type": "integer", "minimum": 0},
                "anyOf": [{"type": "string"}, {"type": "number", "minimum": 1, "not": {"type": "integer"}}],
            },
            [("a", True), (1, False), (-1, False), (None, False)],
        ),
        (
            "a name with no other values",
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"n": {"type": "number", "minimum": 0, "not": {"type": "integer", "minimum": 0}}},
                        "required": ["n"],
                    },
                    {"type": "null"},
                ]
            },
            [(None, True), ({}, False), ({"n": 1}, False), ({"m": 1}, False)],
        ),
    ],
    "if, then, else in a chain": [
        (
            "addresses",
            _ADDRESS,
            [
                ({"country": "US", "zip": "12345"}, True),
                ({"country": "US", "zip": "1234"}, False),
                ({"country": "NL", "zip": "1234AB"}, True),
                ({"country": "NL", "zip": "AB"}, False),
                ({"country": "CA", "zip": "K1A"}, True),
            ],
        )
    ],
    "recursion": [
        (
            "trees",
            _TREE,
            [({"v": 1, "c": [{"v": 2}, {"v": 3, "c": []}]}, True), ({"v": 1, "c": [{}]}, False), ({"c": []}, False)],
        )
    ],
    "draft 4": [
        (
            "exclusive flag, item list, dependencies",
            _DRAFT_4,
            [
                ({"n": 1, "t": [None]}, True),
                ({"n": 0, "t": [None]}, False),
                ({"n": 1}, False),
                ({"t": [1]}, False),
                ({"t": [None, 1], "u": True}, True),
                ({"t": [None], "u": 1}, False),
            ],
        )
    ],
    "draft 7": [
        (
            "what stands beside $ref says nothing",
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "properties": {"a": {"$ref": "#/definitions/text", "maxLength": 1}},
                "required": ["a"],
                "type": "object",
                "definitions": {"text": {"type": "string", "minLength": 2}},
            },
            [({"a": "ab"}, True), ({"a": "a"}, False)],
        )
    ],
    "names and their escapes": [
        (
            "an additional name is not a listed one",
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "patternProperties": {"^x": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
            },
            [
                ({"a": 1, "b": "c", "x1": 2}, True),
                ({"a": "c"}, False),
                ({"x1": "c"}, False),
            ],
        ),
        (
            "characters that JSON escapes",
            {"type": "string", "pattern": '^[^"]*$'},
            [("ab", True), ('a"b', False)],
        ),
        (
            "the other character that JSON escapes",
            {"type": "string", "pattern": "^[^\\\\]*$"},
            [('a"b', True), ("a\\b", False)],
        ),
    ],
    "patterns": [
        (
            "look-ahead",
            {"type": "string", "pattern": "^(?=.*[A-Z])(?!.*secret)\\S{4,8}$"},
            [("abcD", True), ("abcd", False), ("Asecret", False), ("abc D", False)],
        ),
        ("unanchored", {"type": "string", "pattern": "b+c"}, [("abbcd", True), ("abbd", False)]),
        ("a bound of 64 bits on length", {"type": "string", "maxLength": 2**63 - 1}, [("ab", True), (1, False)]),
        ("word edge", {"type": "string", "pattern": "\\bcat\\b"}, [("a cat.", True), ("concat", False)]),
        (
            "two at once, and a length in code points",
            {"allOf": [{"pattern": "^a"}, {"pattern": "z$"}], "type": "string", "maxLength": 3},
            [("a\U0001f600z", True), ("abcz", False), ("ab", False)],
        ),
        (
            "negated",
            {"type": "string", "not": {"pattern": "^tmp-"}},
            [("tm", True), ("x-tmp-", True), ("tmp-1", False)],
        ),
    ],
    "numbers": [
        (
            "open below 1",
            {"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
            [(0.5, True), (0, False), (0.51, False)],
        ),
        ("open above -1", {"type": "number", "minimum": -1.5, "exclusiveMaximum": -1}, [(-1.25, True), (-1, False)]),
        ("every 64-bit integer", {"type": "integer", "maximum": 9223372036854775807}, [(2**53, True), (2**63, False)]),
        ("steps", {"type": "number", "multipleOf": 0.25, "minimum": 0}, [(0.75, True), (0.3, False), (2, True)]),
        ("open above a number near 0", {"type": "number", "minimum": 5e-324}, [(0.5, True), (0, False), (-1, False)]),
        (
            "no step within",
            {"anyOf": [{"multipleOf": 5, "minimum": 1, "maximum": 4}, {"const": 9}]},
            [(9, True), (5, False)],
        ),
    ],
    "numbers of names": [
        (
            "at least two of three",
            {
                "type": "object",
                "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
                "additionalProperties": False,
                "minProperties": 2,
            },
            [({"a": None, "c": None}, True), ({"b": None}, False), ({"a": None, "b": None, "c": None}, True)],
        ),
        (
            "one further name at least",
            {"type": "object", "minProperties": 1, "additionalProperties": {"type": "integer"}},
            [({"x": 1}, True), ({}, False), ({"x": "y"}, False)],
        ),
    ],
    "propertyNames": [
        (
            "by pattern and length",
            {"type": "object", "propertyNames": {"pattern": "^[a-z]+$", "maxLength": 3}},
            [({"abc": 1}, True), ({"abcd": 1}, False), ({"A": 1}, False)],
        ),
        (
            "that another branch has none of",
            {
                "type": "object",
                "oneOf": [{"propertyNames": {"pattern": "^a"}, "minProperties": 1}, {"required": ["b"]}],
            },
            [({"a": 1}, True), ({"b": 1}, True), ({"c": 1}, False)],
        ),
    ],
    "names of a format": [
        (
            "of an address",
            {"type": "object", "propertyNames": {"format": "uri"}, "minProperties": 1},
            [({"a:b": 1}, True), ({"b": 1}, False), ({}, False)],
        ),
        (
            "of an address that is not written, in another branch",
            {
                "oneOf": [
                    {"type": "object", "propertyNames": {"format": "uri"}, "minProperties": 1},
                    {"const": {"http://[::1]/": 1}},
                ]
            },
            [({"a:b": 1}, True), ({"http://[::1]/": 1}, False)],
        ),
    ],
    "contains and uniqueItems": [
        (
            "one at most",
            {"type": "array", "items": {"enum": [1, 2]}, "contains": {"const": 2}, "maxContains": 1, "maxItems": 3},
            [([1, 2, 1], True), ([2, 2], False), ([1], False)],
        ),
        (
            "items of which none is written in both places",
            {
                "type": "array",
                "uniqueItems": True,
                "prefixItems": [
                    {"type": "integer", "minimum": 0},
                    {"type": "number", "not": {"type": "integer", "minimum": 0}},
                ],
                "items": False,
                "minItems": 2,
            },
            [([1, -1], True), ([1, 1], False), ([-1, 1], False), ([1], False)],
        ),
        (
            "a choice of tags",
            {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True, "minItems": 1},
            [(["a", "c"], True), (["a", "a"], False), ([], False)],
        ),
    ],
    "unevaluatedProperties": [
        (
            "closed over what applies",
            {
                "type": "object",
                "allOf": [{"properties": {"a": {"type": "integer"}}}],
                "anyOf": [{"properties": {"b": {"type": "null"}}, "required": ["b"]}, True],
                "unevaluatedProperties": False,
            },
            [({"a": 1, "b": None}, True), ({"a": 1}, True), ({"a": 1, "c": 1}, False), ({"b": 1}, False)],
        )
    ],
    "what cannot be": [
        (
            "a branch without values",
            {"anyOf": [{"type": "string", "minLength": 2, "maxLength": 1}, {"const": 1}]},
            [(1, True), ("a", False)],
        ),
        (
            "a name that may not be there",
            {"type": "object", "properties": {"a": False, "b": {"type": "null"}}},
            [({"b": None}, True), ({"a": 1}, False)],
        ),
        (
            "a value that never ends",
            {
                "$defs": {"x": {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"]}},
                "type": "object",
                "properties": {"x": {"$ref": "#/$defs/x"}, "y": {"type": "null"}},
                "additionalProperties": False,
            },
            [({"y": None}, True), ({"x": {}}, False)],
        ),
    ],
}
