"""What one character of a client's regular expression may match, in the spelling of Rust's regex crate.

Owns escapes and character classes, in Python's and JavaScript's reading of them. Knows no groups and no repetition.
"""

from __future__ import annotations

import re

from runtime.errors import RequestError

_SPECIAL = frozenset("\\.+*?()|[]{}^$#&-~/")
_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
_PROPERTY = re.compile(r"\\[pP]\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}")
_CONTROLS = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "0": 0}
# Of what the dialects disagree about, a set holds what all of them agree is in it.
_ASCII = {"d": "0-9", "w": "0-9A-Za-z_", "s": " \\t\\n\\r\\f\\v"}
_WIDE = {"d": "\\d", "w": "\\w\\p{N}", "s": "\\s\\x1c-\\x1f\\x{feff}"}


def escaped(text: str) -> str:
    """An expression that matches exactly this text, fit to stand between slashes."""
    return "".join([_escaped(character) for character in text])


def read_escape(pattern: str, at: int) -> tuple[str, int]:
    """The expression for the escape at ``at``, and where it ends. Raises RequestError for what is not one character."""
    letter = pattern[at + 1 : at + 2]
    if letter and letter in "bBG":
        raise RequestError(f"the pattern has a word boundary at character {at}, which is look-around: not supported")
    if letter and letter in "123456789k":
        raise RequestError(f"the pattern has a back-reference at character {at}, which is not supported")
    if letter in _ASCII:
        return f"[{_ASCII[letter]}]", at + 2
    if letter and letter.lower() in _WIDE:
        return f"[^{_WIDE[letter.lower()]}]", at + 2
    text, end, _ = _character(pattern, at)
    return text, end


def read_class(pattern: str, at: int) -> tuple[str, int]:
    """The expression for the class whose ``[`` is at ``at``, and where it ends. Raises RequestError."""
    start = at
    at += 1
    is_negated = pattern[at : at + 1] == "^"
    at += is_negated
    items: list[str] = []
    while items == [] or pattern[at : at + 1] != "]":
        if at >= len(pattern):
            raise RequestError(f"the pattern has a '[' without a ']' at character {start}")
        item, at = _class_item(pattern, at, is_negated=is_negated)
        items.append(item)
    return f"[{'^' if is_negated else ''}{''.join(items)}]", at + 1


def _class_item(pattern: str, at: int, *, is_negated: bool) -> tuple[str, int]:
    if pattern[at] == "\\" and pattern[at + 1 : at + 2] in {"d", "w", "s", "D", "W", "S"}:
        return _shorthand(pattern[at + 1], is_negated=is_negated), at + 2
    low, at, low_code = _character(pattern, at)
    if pattern[at : at + 1] != "-" or pattern[at + 1 : at + 2] in {"", "]"} or low_code is None:
        return low, at
    high, end, high_code = _character(pattern, at + 1)
    if high_code is None or high_code < low_code:
        raise RequestError(f"the pattern has a range {pattern[at - 1 : end]!r} with its ends the wrong way round")
    return f"{low}-{high}", end


def _shorthand(letter: str, *, is_negated: bool) -> str:
    """In a negated class what is listed is excluded: then the wider reading is the one that all dialects share."""
    sets = _WIDE if is_negated else _ASCII
    if letter in sets:
        return sets[letter]
    return f"[^{(_ASCII if is_negated else _WIDE)[letter.lower()]}]"


def _character(pattern: str, at: int) -> tuple[str, int, int | None]:
    """One character, where it ends, and its code point; None for a set of characters such as ``\\p{L}``."""
    if pattern[at] != "\\":
        return _escaped(pattern[at]), at + 1, ord(pattern[at])
    if match := _PROPERTY.match(pattern, at):
        return match[0], match.end(), None
    if match := _CODE.match(pattern, at):
        code = int(match[1] or match[2] or match[3], 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise RequestError(f"the pattern has {match[0]!r}, which is no character")
        return _escaped(chr(code)), match.end(), code
    letter = pattern[at + 1 : at + 2]
    if letter in _CONTROLS and not (letter == "0" and pattern[at + 2 : at + 3].isdigit()):
        return f"\\x{{{_CONTROLS[letter]:x}}}", at + 2, _CONTROLS[letter]
    if letter == "b":
        return "\\x{8}", at + 2, 8
    if letter == "" or letter.isalnum():
        raise RequestError(
            f"the pattern has an escape {pattern[at : at + 2]!r} at character {at} that is not supported"
        )
    return _escaped(letter), at + 2, ord(letter)


def _escaped(character: str) -> str:
    if character in _SPECIAL:
        return f"\\{character}"
    return character if character.isprintable() else f"\\x{{{ord(character):x}}}"
