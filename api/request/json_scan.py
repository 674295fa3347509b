"""How many values stand in a JSON text, counted without building one of them.

Parsing a megabyte of ``[],[],`` makes hundreds of thousands of objects in one call that holds the interpreter lock.
The count takes a few passes of C code over the bytes. It is exact for well-formed text; malformed text is the
parser's to refuse. Knows no field and no limit's reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import RequestError

from api.request.body_limits import BodyLimits


@dataclass(frozen=True, slots=True)
class Structure:
    """What stands in a text outside its strings: ``commas``, one less than a list's or an object's members each, and
    ``containers``, its lists and objects."""

    commas: int
    containers: int


def check_structure(text: bytes, limits: BodyLimits) -> None:
    """Raise RequestError when more values, or more objects and lists, stand in a body than are allowed."""
    found = _structure(text)  # even with what stands inside strings
    if found.commas <= limits.max_values and found.containers <= limits.max_containers:
        return
    allowed = 2 * limits.max_values  # a key and a value each
    if (strings := _unescaped(text).count(b'"') // 2) > allowed:
        raise RequestError(f"the body: at most {allowed} strings are allowed, got {strings}")
    found = structure_of(text)
    if found.commas > limits.max_values:
        raise RequestError(f"the body: at most {limits.max_values} values are allowed, got more than {found.commas}")
    if found.containers > limits.max_containers:
        raise RequestError(
            f"the body: at most {limits.max_containers} objects and lists are allowed, got {found.containers}"
        )


def structure_of(text: bytes) -> Structure:
    """What stands outside the strings of a text."""
    return _structure(b"".join(_unescaped(text).split(b'"')[::2]))


def _structure(text: bytes) -> Structure:
    return Structure(text.count(b","), text.count(b"{") + text.count(b"["))


def _unescaped(text: bytes) -> bytes:
    """The text with no quote but those around its strings; a backslash stands only in strings."""
    return text.replace(b"\\\\", b"").replace(b'\\"', b"")
