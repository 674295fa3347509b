"""A value that a model wrote as plain text -> its JSON text, by the types that its schema allows. Knows no call."""

from __future__ import annotations

import json
import re

from runtime.text.cursor import Cursor, Unparsable
from runtime.text.tool_calls.json_text import JsonScanner
from runtime.text.tool_calls.python_literal import python_literal

_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")
_FIRST = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


def typed_text(text: str, types: frozenset[str]) -> str:
    """``types`` are JSON Schema's, empty for any. Text that reads as none of them becomes a string."""
    if types != {"string"}:
        stripped = text.strip()
        for candidate in (stripped, _from_python(stripped)):
            if candidate and is_json(candidate) and _fits(candidate, types):
                return candidate
    return json.dumps(text, ensure_ascii=False)


def is_json(text: str) -> bool:
    """Whether a text is one JSON value and nothing else."""
    scanner = JsonScanner()
    end = scanner.scan(text, 0)
    if end == len(text) and not scanner.broken:
        scanner.scan(" ", 0)  # a number ends at the first character that is not its own
    return scanner.done and end == len(text)


def _fits(json_text: str, types: frozenset[str]) -> bool:
    kind = _FIRST.get(json_text[0], "number")
    whole = kind == "number" and _WHOLE.fullmatch(json_text) is not None
    return not types or kind in types or (whole and "integer" in types)


def _from_python(text: str) -> str:
    """The JSON of a Python literal; empty where the text is none."""
    cursor = Cursor()
    cursor.feed(text)
    cursor.ended = True
    pieces: list[str] = []
    try:
        for _ in python_literal(cursor, pieces.append):
            pass
    except Unparsable:
        return ""
    return "".join(pieces) if cursor.position == len(text) else ""
