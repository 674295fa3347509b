"""docs/reference/http.md, made from the OpenAPI document that the server shows. Knows no route itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.controllers.openapi import openapi_document
from tests.docs.made.cells import code, plain, row

_HEAD = """# HTTP

Made from the types that check requests and encode answers; a running server shows the same at `/openapi.json` and, to
try requests in, at `/docs`. What fields mean, where answers differ from OpenAI's and what an error holds is in
[the contract](../contract.md).

## Statuses
"""


def page() -> str:
    """The whole page, Markdown: every route, then every object with its fields."""
    document = openapi_document()
    lines = [_HEAD, *_statuses(document), "", "## Routes"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += _route(path, method, operation)
    lines += ["", "## Objects"]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += _object(name, schema)
    return "\n".join(lines) + "\n"


def _route(path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    lines = ["", f"### `{method.upper()} {path}`", "", operation.get("summary", "")]
    if description := operation.get("description", ""):
        lines += ["", " ".join(description.split()).replace("<", "&lt;")]
    if body := operation.get("requestBody"):
        lines += ["", "Request: " + _contents(body["content"])]
    by_answer: dict[str, list[str]] = {}
    for status, answer in sorted(operation["responses"].items()):
        by_answer.setdefault(_contents(answer.get("content", {})), []).append(status)
    lines += ["", row("status", "answer"), row(*["---"] * 2)]
    return lines + [row(", ".join(map(code, statuses)), answer) for answer, statuses in by_answer.items()]


def _statuses(document: Mapping[str, Any]) -> list[str]:
    meanings: dict[str, str] = {}
    for methods in document["paths"].values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                meanings.setdefault(status, answer.get("description", ""))
    lines = [row("status", "meaning"), row(*["---"] * 2)]
    return lines + [row(code(status), plain(meaning)) for status, meaning in sorted(meanings.items())]


def _contents(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{code(media)} {_kind(part.get('schema', {}))}".strip() for media, part in content.items())


def _object(name: str, schema: Mapping[str, Any]) -> list[str]:
    lines = ["", f"### {name}"]
    if description := schema.get("description", ""):
        lines += ["", plain(description)]
    fields = schema.get("properties", {})
    if not fields:
        return (
            [*lines, "", f"Is {_kind(schema)}."] if _kind(schema) != "object" else [*lines, "", "Has no fixed fields."]
        )
    needed = schema.get("required", [])
    lines += ["", row("field", "type", "", "meaning"), row(*["---"] * 4)]
    for field, part in fields.items():
        default = f"default {code(_json(part['default']))}" if "default" in part and part["default"] is not None else ""
        state = "needed" if field in needed else default
        lines.append(row(code(field), _kind(part), state, plain(part.get("description", ""))))
    return lines


def _kind(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, with links to the objects that it names."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for word in ("anyOf", "oneOf", "allOf"):
        if parts := schema.get(word):
            return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    if "const" in schema or "enum" in schema:
        return ", ".join(code(_json(value)) for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"list of {_kind(schema['items'])}" if schema.get("items") else "list"
    return str(kind) + _range(schema)


def _range(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign.replace('<', '&lt;')} {schema[word]}" for word, sign in words.items() if word in schema]
    if "maxLength" in schema:
        bounds.append(f"at most {schema['maxLength']} characters")
    return f" ({', '.join(bounds)})" if bounds else ""


def _json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
