"""``/openapi.json`` and ``/docs``: the interface described, readable in a browser without a network.

The page is plain HTML made from the description; it loads nothing from elsewhere, so it works on isolated machines.
"""

from __future__ import annotations

from functools import cache
from html import escape
from typing import Any

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from api.controllers.openapi import openapi_document
from api.controllers.service import Service
from api.response.json_answer import JsonAnswer

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; padding-bottom: .2rem; }
code, h2, h3 { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #8883; }
"""
_LIMITS = {
    "minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<", "minItems": "items >=",
    "maxItems": "items <=", "minLength": "length >=", "maxLength": "length <=",
}  # fmt: skip


class DocsController(Controller):
    """The interface's own description."""

    @get("/openapi.json")
    async def description(self, service: NamedDependency[Service]) -> ASGIApp:
        """OpenAPI 3.1. Behind a proxy with a prefix, its paths count from there."""
        root = service.settings.root_path
        return JsonAnswer({**_document(), "servers": [{"url": root}]} if root else _document())

    @get("/docs")
    async def page(self) -> ASGIApp:
        """The same for people."""
        return JsonAnswer(_page(), content_type="text/html; charset=utf-8")


@cache
def _document() -> dict[str, Any]:
    return openapi_document()


@cache
def _page() -> bytes:
    document = _document()
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>powertrain</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>powertrain {escape(document['info']['version'])}</h1>")
    parts.append(
        f"<p>{escape(document['info']['description'])} Machine-readable: <a href=openapi.json>openapi.json</a>."
    )
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}")
            answers = "".join(
                f"<tr><td><code>{status}</code><td>{escape(answer['description'])} {_links(answer)}"
                for status, answer in operation["responses"].items()
            )
            body = f"<p>Body: {_links(operation['requestBody'])}" if "requestBody" in operation else ""
            parts.append(f"{body}<table>{answers}</table>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts.append(_schema_section(name, schema))
    return "".join(parts).encode()


def _links(holder: dict[str, Any]) -> str:
    return ", ".join(_type_of(content["schema"]) for content in holder.get("content", {}).values())


def _schema_section(name: str, schema: dict[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{' *' if field in required else ''}<td>{_type_of(kind)}"
        f"<td>{escape(_description(kind))}"
        for field, kind in schema.get("properties", {}).items()
    )
    text = escape(schema.get("description", ""))
    return f"<h3 id={escape(name)}>{escape(name)}</h3><p>{text}<table>{rows}</table>"


def _description(kind: dict[str, Any]) -> str:
    found = [kind, *kind.get("anyOf", ())]
    return " ".join(str(part["description"]) for part in found if "description" in part)


def _type_of(kind: dict[str, Any]) -> str:
    """A schema's type in one line of HTML."""
    if "$ref" in kind:
        name = escape(kind["$ref"].rpartition("/")[2])
        return f"<a href=#{name}>{name}</a>"
    if "anyOf" in kind:
        return " or ".join(_type_of(member) for member in kind["anyOf"] if member.get("type") != "null")
    if "enum" in kind:
        return escape(" | ".join(str(value) for value in kind["enum"]))
    if kind.get("type") == "array" and "items" in kind:
        inner = kind["items"]
        text = f"list of {_type_of(inner)}" if inner else "list"
    else:
        text = escape(str(kind.get("const", kind.get("type", "anything"))))
    limits = " ".join(f"{sign} {kind[key]}" for key, sign in _LIMITS.items() if key in kind)
    return f"{text} {escape(limits)}".strip()
