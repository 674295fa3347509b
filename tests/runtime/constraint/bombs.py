"""Constraints that crash, hang or eat memory where nothing bounds them. What each is meant to hurt is its name."""

from __future__ import annotations

import json

from runtime.constraint.spec import Choice, Json, Lark, Literal, Part, Pattern


def _object(properties: dict[str, object], **keywords: object) -> Json:
    return Json(json.dumps({"type": "object", "properties": properties, "additionalProperties": False, **keywords}))


def _nested(levels: int) -> Json:
    opening = '{"type":"object","properties":{"a":' * levels
    return Json(opening + '{"type":"string"}' + '},"required":["a"],"additionalProperties":false}' * levels)


BOMBS: dict[str, Part] = {
    "ambiguity: s s s | s s | a | nothing": Lark('start: s\ns: s s s | s s | "a" |'),
    "ambiguity: three repetitions of x": Lark('start: (a | b | c)*\na: "x"*\nb: "x"+\nc: "x"?'),
    "ambiguity: any text, repeated": Lark("start: (/.*/ | /.+/)*"),
    "recursion to the right": Lark('start: s\ns: "a" s |'),
    "recursion without an end": Lark("start: start"),
    "count: a{100000}": Pattern("a{100000}"),
    "count: a{5000}": Pattern("a{5000}"),
    "count: ((a{1000}){1000}){1000}": Pattern("((a{1000}){1000}){1000}"),
    "count in Lark: /a{100000}/": Lark("start: /a{100000}/"),
    "count in Lark: 1000 of 1000 of 1000": Lark('start: A\nA: B~1000\nB: C~1000\nC: "x"'),
    "count in a schema: (a{1000}){1000}": Json('{"type":"string","pattern":"^(a{1000}){1000}$"}'),
    "states: .*a.{200}": Json('{"type":"string","pattern":"a.{200}$"}'),
    "states: (x+x+)+y": Pattern("(x+x+)+y"),
    "states: (.*a.{12}){20}": Pattern("(.*a.{12}){20}"),
    "states: intersections": Lark("start: A\nA: " + " & ".join(f"/(?s:.*){c}(?s:.*)/" for c in "abcdefghijklmnopqrst")),
    "rules: 1,500": Lark("start: r0\n" + "\n".join(f'r{i}: "a" r{i + 1} | "b"' for i in range(1500)) + '\nr1500: "c"'),
    "nesting: 20,000 brackets": Lark("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "nesting: 40 objects": _nested(40),
    "nesting: 20,000 objects": _nested(20_000),
    "forced: 60,000 characters": Lark('start: "' + "a" * 60_000 + '"'),
    "forced: 1,000,000 characters": Literal("word " * 200_000),
    "forced: const of 900,000": Json(json.dumps({"const": "x y" * 300_000})),
    "substrings of 60,000 characters": Lark('start: S\nS: %regex {"substring_chars": "' + "abcdefghij" * 6_000 + '"}'),
    "optional properties: 400": _object({f"p{i}": {"type": "string"} for i in range(400)}),
    "optional properties: 5,000": _object({f"p{i}": {"type": "string"} for i in range(5_000)}),
    "enum of 10,000": Json(json.dumps({"enum": [f"value-{i}" for i in range(10_000)]})),
    "anyOf of 3,000 objects": Json(json.dumps({"anyOf": [{"properties": {"k": {"const": i}}} for i in range(3000)]})),
    "allOf of 2**16 ways": Json(json.dumps({"allOf": [
        {"anyOf": [{"properties": {f"a{i}": {"const": j}}} for j in range(2)]} for i in range(16)
    ]})),
    "references in a circle": Json('{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}'),
    "multipleOf a large prime": Json('{"type":"integer","multipleOf":1000003,"minimum":0,"maximum":10000000000000000}'),
    "minItems of 90,000": Json('{"type":"array","items":{"type":"integer"},"minItems":90000}'),
    "maxLength of 100,000": Json('{"type":"string","minLength":1000,"maxLength":100000}'),
    "choices: 50,000": Choice(tuple(f"choice number {i}" for i in range(50_000))),
    "choices: 100,000": Choice(tuple(f"choice {i}" for i in range(100_000))),
    "choices: 1,500 that begin alike": Choice(tuple("x" * i for i in range(1, 1_500))),
}  # fmt: skip
