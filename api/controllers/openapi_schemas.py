"""The structs' JSON schemas, as the description shows them: what a request may ask for, without what is only refused.

A struct must know a field to refuse it by name; whoever reads the description wants to know what works. So fields that
can only be null, and those marked ``api.request.sampling_fields.ONLY_REFUSED``, are left out. Knows no route.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from api.request.sampling_fields import ONLY_REFUSED

_STOP_FIELDS = frozenset({"stop", "stop_sequences"})
_Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What the description of one server depends on. ``model`` is the name that examples have, None for none.

    ``server`` is where paths count from, by default where the description lies.
    """

    server: str = "./"
    model: str | None = None
    needs_key: bool = False
    has_admin_key: bool = False
    trusts_chat_templates: bool = False
    max_stop_strings: int = 16


def shown_schemas(schemas: Mapping[str, _Schema], requests: Collection[str], interface: Interface) -> _Schema:
    """All ``schemas``, by name; those of ``requests`` without what is only refused."""
    shown = {name: _plain(schema) for name, schema in schemas.items()}
    for name in requests:
        fields: dict[str, _Schema] = shown[name].get("properties", {})
        shown[name]["properties"] = {
            field: _limited(schema, interface) if field in _STOP_FIELDS else schema
            for field, schema in fields.items()
            if _is_accepted(field, schema, interface)
        }
    return shown


def _is_accepted(field: str, schema: _Schema, interface: Interface) -> bool:
    if field == "chat_template" and not interface.trusts_chat_templates:
        return False
    return schema.get("type") != "null" and ONLY_REFUSED not in schema


def _limited(schema: _Schema, interface: Interface) -> _Schema:
    """The schema of stop strings, with the operator's limit on every list in it."""
    limit = {"maxItems": interface.max_stop_strings}
    lists = [part | limit if part.get("type") == "array" else part for part in schema.get("anyOf", ())]
    return schema | ({"anyOf": lists} if lists else limit)


def _plain(schema: Any) -> Any:  # noqa: ANN401 - a part of a JSON document
    """The same schema, with the null of an optional field beside its other types instead of in an alternative.

    ``anyOf: [{type: integer, minimum: 1}, {type: null}]`` becomes ``{type: [integer, null], minimum: 1}``.
    """
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _plain(value) for key, value in schema.items()}
    match plain.get("anyOf"):
        case [{"type": str(kind)} as only, {"type": "null"}]:
            return _without_alternatives(plain) | only | {"type": [kind, "null"]}
        case [{"enum": list(values)} as only, {"type": "null"}]:
            return _without_alternatives(plain) | only | {"enum": [*values, None]}
        case [{"anyOf": list(inner)} as only, {"type": "null"} as null]:
            return _without_alternatives(plain) | only | {"anyOf": [*inner, null]}
    return plain


def _without_alternatives(schema: _Schema) -> _Schema:
    return {key: value for key, value in schema.items() if key != "anyOf"}
