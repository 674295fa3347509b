"""How many values stand in a JSON text, counted without building one of them.

Parsing a megabyte of ``[],[],`` makes hundreds of thousands of objects in one call that holds the interpreter lock.
The count takes a few passes of C code over the bytes. It is exact for well-formed text; malformed text is the
parser's to refuse. Knows no field and no limit's reason.
"""

from __future__ import annotations

from runtime.errors import RequestError

from api.request.body_limits import BodyLimits


def check_structure(text: bytes, limits: BodyLimits) -> None:
    """Raise RequestError when more values, or more objects and lists, stand in a JSON text than are allowed."""
    if text.count(b",") <= limits.max_values and _containers(text) <= limits.max_containers:
        return  # even with what stands inside strings
    structure = _without_strings(text, limits)
    values = structure.count(b",")
    if values > limits.max_values:
        raise RequestError(f"the body: at most {limits.max_values} values are allowed, got more than {values}")
    containers = _containers(structure)
    if containers > limits.max_containers:
        raise RequestError(f"the body: at most {limits.max_containers} objects and lists are allowed, got {containers}")


def _containers(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[")


def _without_strings(text: bytes, limits: BodyLimits) -> bytes:
    """The text outside its strings. A backslash stands only in strings, so escapes can go first."""
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = unescaped.count(b'"') // 2
    allowed = 2 * limits.max_values  # a key and a value each
    if strings > allowed:
        raise RequestError(f"the body: at most {allowed} strings are allowed, got {strings}")
    return b"".join(unescaped.split(b'"')[::2])
