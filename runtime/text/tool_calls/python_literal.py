"""Reads one Python literal and writes it as JSON text: strings, numbers, lists, tuples and dicts.

Owns the two spellings. JSON's is read as well, since models mix them: ``true``, ``null``, surrogate pairs as escapes.
Knows no call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from runtime.text.cursor import Cursor, Steps, Unparsable

MAX_DEPTH = 64
"""Lists and dicts inside one another; a reader of one is a Python call inside its caller's."""
_WORD = re.compile(r"[A-Za-z]*")
_NUMBER = re.compile(r"[0-9+\-.eE_]*")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_OTHER_NUMBER = re.compile(r"\+?(-?)([0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_PLAIN = {quote: re.compile(rf"[^\\{quote}]*") for quote in "'\""}
_HEX = re.compile(r"[0-9a-fA-F]+")
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPES = {
    "\\": "\\", "'": "'", '"': '"', "/": "/", "\n": "",
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0",
}  # fmt: skip
_CODE_LENGTHS = {"x": 2, "u": 4, "U": 8}


def python_literal(cursor: Cursor, sink: Callable[[str], object], depth: int = 0) -> Steps[None]:
    """Read one literal; ``sink`` gets its JSON text in pieces."""
    if depth > MAX_DEPTH:
        raise Unparsable
    first = yield from cursor.peek()
    if first in {"'", '"'}:
        sink(json.dumps((yield from python_string(cursor)), ensure_ascii=False))
    elif first == "[":
        yield from _items(cursor, sink, depth, "[", "]")
    elif first == "(":
        yield from _items(cursor, sink, depth, "(", ")")
    elif first == "{":
        yield from _dict(cursor, sink, depth)
    elif first.isalpha():
        word = yield from cursor.text(_WORD)
        if word not in _WORDS:
            raise Unparsable
        sink(_WORDS[word])
    else:
        sink(_json_number((yield from cursor.text(_NUMBER))))


def python_string(cursor: Cursor) -> Steps[str]:
    """Read a string literal in either kind of quotes and return what it stands for."""
    quote = yield from cursor.accepts_any(("'", '"'))
    if not quote:
        raise Unparsable
    pieces: list[str] = []
    while True:
        yield from cursor.run(_PLAIN[quote], pieces.append)
        if (yield from cursor.accepts(quote)):
            return _joined(pieces)
        yield from cursor.expect("\\")
        pieces.append((yield from _escape(cursor)))


def _escape(cursor: Cursor) -> Steps[str]:
    kind = yield from cursor.peek()
    cursor.position += len(kind)
    if (length := _CODE_LENGTHS.get(kind)) is not None:
        digits = ""
        while len(digits) < length:
            digits += yield from cursor.peek()
            if not _HEX.fullmatch(digits):
                raise Unparsable
            cursor.position += 1
        if int(digits, 16) > 0x10FFFF:
            raise Unparsable
        return chr(int(digits, 16))
    if not kind:
        raise Unparsable
    return _ESCAPES.get(kind, "\\" + kind)  # Python keeps the backslash of an escape that it does not know


def _joined(pieces: list[str]) -> str:
    """The string; two escapes of a surrogate pair, as JSON writes them, are one character."""
    text = "".join(pieces)
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise Unparsable from None  # a lone surrogate is no text


def _json_number(text: str) -> str:
    text = text.replace("_", "")
    if _JSON_NUMBER.fullmatch(text):
        return text
    match = _OTHER_NUMBER.fullmatch(text)
    if not match or not (match[2] or (match[3] or ".") != "."):
        raise Unparsable
    whole = match[2].lstrip("0") or "0"
    fraction = f"{match[3]}0" if match[3] == "." else match[3] or ""
    return f"{match[1]}{whole}{fraction}{match[4] or ''}"


def _items(cursor: Cursor, sink: Callable[[str], object], depth: int, begin: str, end: str) -> Steps[None]:
    yield from cursor.expect(begin)
    sink("[")
    separator = ""
    while True:
        yield from cursor.spaces()
        if (yield from cursor.accepts(end)):  # also after a last comma
            break
        sink(separator)
        yield from python_literal(cursor, sink, depth + 1)
        separator = ", "
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            yield from cursor.expect(end)
            break
    sink("]")


def _dict(cursor: Cursor, sink: Callable[[str], object], depth: int) -> Steps[None]:
    yield from cursor.expect("{")
    sink("{")
    separator = ""
    while True:
        yield from cursor.spaces()
        if (yield from cursor.accepts("}")):
            break
        key = yield from python_string(cursor)
        sink(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
        yield from cursor.spaces()
        yield from cursor.expect(":")
        yield from cursor.spaces()
        yield from python_literal(cursor, sink, depth + 1)
        separator = ", "
        yield from cursor.spaces()
        if not (yield from cursor.accepts(",")):
            yield from cursor.expect("}")
            break
    sink("}")
