"""A tool's parameters one by one, for formats that do not write arguments as one JSON object.

Owns what can be said of a schema without following all of JSON Schema: the types that a parameter may have, and whether
a schema says no more than such a format can hold to. Enforces nothing itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from runtime.text.tool_calls.tool import Tool

_MAX_REFERENCES = 8
_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "$schema", "$comment"})
_ROOT = _NOTES | {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_PLAIN = _NOTES | {"type", "enum"}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """``types`` are JSON Schema's, empty for any. ``schema`` stands alone, as JSON text.

    ``is_text``: any string and nothing else. ``choices``: one of these strings and nothing else.
    """

    name: str
    required: bool
    types: frozenset[str]
    schema: str
    is_text: bool = False
    choices: tuple[str, ...] = ()


def parameters(tool: Tool) -> dict[str, Parameter]:
    """The parameters that a tool's schema declares, in its order; none where it declares them otherwise."""
    root = _loaded(tool)
    properties = root.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = root.get("required")
    names = required if isinstance(required, list) else []
    return {name: _parameter(name, schema, root, required=name in names) for name, schema in properties.items()}


def is_plain(tool: Tool) -> bool:
    """Whether the schema says nothing that its parameters, taken one by one, do not say."""
    root = _loaded(tool)
    declared = root.get("properties", {})
    required = root.get("required", [])
    return (
        root.keys() <= _ROOT
        and root.get("type", "object") == "object"
        and isinstance(declared, dict)
        and all(isinstance(schema, dict | bool) for schema in declared.values())
        and isinstance(required, list)
        and all(name in declared for name in required)
    )


def _loaded(tool: Tool) -> dict[str, Any]:
    try:
        root = json.loads(tool.parameters)
    except (ValueError, RecursionError):
        return {"type": "unreadable"}
    return root if isinstance(root, dict) else {"type": "unreadable"}


def _parameter(name: str, schema: object, root: dict[str, Any], *, required: bool) -> Parameter:
    types = _types(schema, root, _MAX_REFERENCES)
    shared = {key: root[key] for key in ("$defs", "definitions") if key in root}
    alone = {**shared, **schema} if isinstance(schema, dict) else schema
    plain = isinstance(schema, dict) and schema.keys() <= _PLAIN and types == {"string"}
    choices: tuple[str, ...] = ()
    if plain and isinstance(schema, dict) and isinstance(values := schema.get("enum"), list):
        choices = tuple(value for value in values if isinstance(value, str))
    text = json.dumps(alone, ensure_ascii=False)
    return Parameter(name, required, types, text, is_text=plain and not choices, choices=choices)


def _types(schema: object, root: dict[str, Any], references: int) -> frozenset[str]:
    """The types that a value of this schema may have; empty where that is not plain to see."""
    if not isinstance(schema, dict):
        return frozenset()
    kind = schema.get("type")
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(entry for entry in kind if isinstance(entry, str))
    if isinstance(values := schema.get("enum", [schema["const"]] if "const" in schema else None), list):
        return frozenset(_TYPES.get(type(value), "null") for value in values)
    if isinstance(pointer := schema.get("$ref"), str):
        return _types(_target(pointer, root), root, references - 1) if references else frozenset()
    for key in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(key), list) and references:
            kinds = [_types(branch, root, references - 1) for branch in branches]
            return frozenset().union(*kinds) if all(kinds) else frozenset()
    return frozenset()


def _target(pointer: str, root: dict[str, Any]) -> object:
    """What ``#/$defs/...`` refers to; None for anything else."""
    target: object = root
    for step in pointer.removeprefix("#/").split("/"):
        target = target.get(step) if isinstance(target, dict) else None
    return target if pointer.startswith("#/") else None
