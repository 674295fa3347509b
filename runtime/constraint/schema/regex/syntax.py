"""ECMA-262's syntax of regular expressions -> a tree, or the reason why it is refused.

Reads what JSON Schema means by ``pattern``: a Unicode expression, with the leniencies that browsers grant (Annex B).
Knows no automata: ``reading.py`` turns the tree into a language.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.constraint.schema.regex.characters import (
    DIGIT,
    LINE_END,
    SPACE,
    WORD,
    Characters,
    others,
    united,
)

MAX_PATTERN = 10_000
MAX_GROUPS_DEEP = 40
MAX_COUNT = 100_000
_CLASSES = {
    "d": DIGIT,
    "D": others(DIGIT),
    "w": WORD,
    "W": others(WORD),
    "s": SPACE,
    "S": others(SPACE),
}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}


class PatternRefused(Exception):
    """A pattern uses what is not supported, or is no regular expression; the text says what."""


@dataclass(frozen=True, slots=True)
class One:
    """One character of a set."""

    characters: Characters


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place between characters: ``^``, ``$``, ``b`` (a word's edge) or ``B`` (none)."""

    kind: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """What follows begins, or does not begin, with ``inner``."""

    inner: Alternatives
    wanted: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A part in parentheses."""

    inner: Alternatives


@dataclass(frozen=True, slots=True)
class Times:
    """A part ``least`` to ``most`` times (None: any number)."""

    part: One | Group
    least: int
    most: int | None


Item = One | Boundary | Ahead | Group | Times


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Sequences of which one matches."""

    sequences: tuple[tuple[Item, ...], ...]


def parsed_pattern(pattern: str) -> Alternatives:
    """The tree of a pattern. Raises PatternRefused."""
    if len(pattern) > MAX_PATTERN:
        raise PatternRefused(f"has {len(pattern):,} characters, at most {MAX_PATTERN:,} are allowed")
    parser = _Parser(pattern)
    tree = parser.alternatives(0)
    if parser.at < len(pattern):
        raise PatternRefused("closes a group that it did not open")
    return tree


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def alternatives(self, depth: int) -> Alternatives:
        if depth > MAX_GROUPS_DEEP:
            raise PatternRefused(f"nests groups over {MAX_GROUPS_DEEP} deep")
        sequences: list[tuple[Item, ...]] = []
        while True:
            items: list[Item] = []
            while self.at < len(self.text) and self.text[self.at] not in "|)":
                items.append(self._quantified(self._atom(depth)))
            sequences.append(tuple(items))
            if not self._take("|"):
                return Alternatives(tuple(sequences))

    def _take(self, token: str) -> bool:
        taken = self.text.startswith(token, self.at)
        self.at += len(token) if taken else 0
        return taken

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise PatternRefused("ends inside an escape, a group or a class")
        self.at += 1
        return self.text[self.at - 1]

    def _atom(self, depth: int) -> Item:
        character = self._next()
        if character in "^$":
            return Boundary(character)
        if character == ".":
            return One(others(LINE_END))
        if character == "(":
            return self._group(depth)
        if character == "[":
            return One(self._class())
        if character in "*+?":
            raise PatternRefused(f"repeats nothing with {character}")
        if character == "\\":
            return self._escape()
        return One(((ord(character), ord(character)),))

    def _group(self, depth: int) -> Item:
        if self._take("?:"):
            return self._closed(Group(self.alternatives(depth + 1)))
        if self._take("?="):
            return self._closed(Ahead(self.alternatives(depth + 1), wanted=True))
        if self._take("?!"):
            return self._closed(Ahead(self.alternatives(depth + 1), wanted=False))
        if self._take("?<=") or self._take("?<!"):
            raise PatternRefused("looks behind, which is not supported; look ahead, or write it without")
        if self._take("?<"):
            while self._next() != ">":
                pass
        elif self._take("?"):
            raise PatternRefused("sets flags or uses a group that ECMA-262 does not know")
        return self._closed(Group(self.alternatives(depth + 1)))

    def _closed(self, item: Item) -> Item:
        if not self._take(")"):
            raise PatternRefused("does not close a group")
        return item

    def _quantified(self, item: Item) -> Item:
        bounds = self._bounds()
        if bounds is None:
            return item
        if not isinstance(item, One | Group):
            raise PatternRefused("repeats a place, such as ^ or a look ahead")
        self._take("?")  # lazy: another match, the same texts
        return Times(item, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for token, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take(token):
                return least, most
        if not self.text.startswith("{", self.at):
            return None
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not (low.isascii() and low.isdecimal() and (not high or (high.isascii() and high.isdecimal()))):
            return None
        if len(low) > 6 or len(high) > 6 or max(int(low), int(high or 0)) > MAX_COUNT:
            raise PatternRefused(f"repeats a part over {MAX_COUNT:,} times")
        self.at = end + 1
        least, most = int(low), (int(high) if high else None) if comma else int(low)
        if most is not None and most < least:
            raise PatternRefused(f"repeats a part at least {least} and at most {most} times")
        return least, most

    def _escape(self) -> Item:
        character = self._next()
        if character in "bB":
            return Boundary(character)
        if character in _CLASSES:
            return One(_CLASSES[character])
        code = self._code(character)
        return One(((code, code),))

    def _code(self, character: str) -> int:
        if character == "0" and self.text[self.at : self.at + 1].isdigit():
            raise PatternRefused("has an octal escape, which engines read differently; write \\x and two digits")
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character == "c" and self.text[self.at : self.at + 1].isalpha():
            return ord(self._next()) % 32
        if character == "x":
            return self._hexadecimal(2)
        if character == "u":
            return self._unicode()
        if character in "pP":
            raise PatternRefused("names a Unicode property, which is not supported; list the ranges of characters")
        if character.isdigit() or character == "k":
            raise PatternRefused("refers back to a group, which no regular language can")
        if character.isalpha():
            raise PatternRefused(f"has the escape \\{character}, which ECMA-262 does not know")
        return ord(character)

    def _hexadecimal(self, digits: int) -> int:
        text = self.text[self.at : self.at + digits]
        self.at += digits
        try:
            return int(text, 16)
        except ValueError as error:
            raise PatternRefused("has an escape without its hexadecimal digits") from error

    def _unicode(self) -> int:
        if self._take("{"):
            end = self.text.find("}", self.at)
            code = self._hexadecimal(max(end - self.at, 0))
            self.at += 1
        else:
            code = self._hexadecimal(4)
            if 0xD800 <= code <= 0xDBFF and self._take("\\u"):
                code = 0x10000 + ((code & 0x3FF) << 10) + (self._hexadecimal(4) & 0x3FF)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise PatternRefused("names half of a surrogate pair or no character at all")
        return code

    def _class(self) -> Characters:
        negated = self._take("^")
        spans: list[Characters] = []
        while not self._take("]"):
            low = self._member()
            if isinstance(low, int) and self.text.startswith("-", self.at) and not self.text.startswith("-]", self.at):
                mark = self.at
                self.at += 1
                high = self._member()
                if isinstance(high, int):
                    if high < low:
                        raise PatternRefused("has a range of characters that ends before it begins")
                    spans.append(((low, high),))
                    continue
                self.at = mark
            spans.append(((low, low),) if isinstance(low, int) else low)
        characters = united(spans)
        return others(characters) if negated else characters

    def _member(self) -> int | Characters:
        character = self._next()
        if character != "\\":
            return ord(character)
        character = self._next()
        if character in _CLASSES:
            return _CLASSES[character]
        return 8 if character == "b" else 45 if character == "-" else self._code(character)
