"""The fields that say what an answer's text must look like, as they arrive, in each client's spelling.

Knows no grammar: ``api.request.constraint`` makes one demand of them.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

SchemaValue = dict[str, Any] | bool
MAX_WHITESPACE_PATTERN_CHARS = 64
BACKENDS = ("auto", "guidance", "llguidance", "lm-format-enforcer", "outlines", "xgrammar")
"""Names that clients may give as their choice of library. All of them mean the one that is here."""
BackendName = Annotated[
    str,
    Meta(
        description="Changes nothing: there is one. Options may follow after a colon.",
        extra_json_schema={"pattern": f"^({'|'.join(BACKENDS)})(:.*)?$"},
    ),
]
WhitespacePattern = Annotated[
    str,
    Meta(
        max_length=MAX_WHITESPACE_PATTERN_CHARS,
        description="JSON is written compactly, so the pattern must admit no white space at all.",
    ),
]


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object, or JSON that ``schema`` admits, as some servers spell it."""

    schema: SchemaValue | None = None


class NamedSchema(msgspec.Struct, frozen=True):
    """A JSON Schema; without ``schema``, any JSON object. Schemas are always held, ``strict`` or not."""

    schema: SchemaValue | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that a schema admits."""

    json_schema: NamedSchema


class TagStructure(msgspec.Struct, frozen=True):
    """Between ``begin`` and ``end`` stands JSON that the schema admits."""

    begin: str
    schema: SchemaValue
    end: str


class TagContent(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that a schema admits, within a tag."""

    json_schema: SchemaValue


class FormatTag(msgspec.Struct, frozen=True, tag_field="type", tag="tag"):
    """The newer spelling of a structure."""

    begin: str
    content: TagContent
    end: str


class TriggeredTags(msgspec.Struct, frozen=True, tag_field="type", tag="triggered_tags"):
    """Free text in which each trigger begins a tag."""

    triggers: Annotated[list[str], Meta(min_length=1)]
    tags: Annotated[list[FormatTag], Meta(min_length=1)]
    at_least_one: bool | None = None
    stop_after_first: bool | None = None


class StructuralTag(msgspec.Struct, frozen=True, tag_field="type", tag="structural_tag"):
    """Constrained islands in free text: ``structures`` and ``triggers``, or the newer ``format``."""

    structures: Annotated[list[TagStructure], Meta(min_length=1)] | None = None
    triggers: Annotated[list[str], Meta(min_length=1)] | None = None
    format: TriggeredTags | None = None


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat | StructuralTag,
    Meta(description="What the answer's text must look like."),
]


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's spelling: exactly one of the first six. A schema or a structural tag may also be a JSON text."""

    json: SchemaValue | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(extra_json_schema={"minItems": 1})] | None = None
    grammar: Annotated[str, Meta(extra_json_schema={"minLength": 1})] | None = None
    json_object: bool | None = None
    structural_tag: StructuralTag | str | None = None
    whitespace_pattern: WhitespacePattern | None = None
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None
