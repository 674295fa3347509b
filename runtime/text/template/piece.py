"""Text that knows which of its characters the template itself wrote.

A ``Piece`` is a ``str`` with spans of *trusted* characters; any other ``str`` is untrusted, and so is whatever an
operation returns that is not overridden here. Forgetting an operation therefore costs a control token, never makes
one. Trust is given in one place, ``trusted``, which a template cannot reach; everything else here only passes it on,
character by character. Knows no template engine.
"""

# ruff: noqa: D102 - the methods are str's own, and mean what they mean there

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

Spans = tuple[tuple[int, int], ...]
"""Trusted characters as half-open ranges of positions: sorted, apart from each other, none empty."""

_PERCENT = re.compile(r"%(?:\((?P<name>[^()]*)\))?[#0\- +]*\d*(?:\.\d+)?(?P<kind>[a-zA-Z%])")


class Piece(str):
    """A text with trusted spans. ``Piece(text)`` has none: only ``trusted`` gives trust."""

    __slots__ = ("_spans",)
    _spans: Spans

    def __new__(cls, text: object = "") -> Piece:
        piece = super().__new__(cls, text)
        piece._spans = ()
        return piece

    def __str__(self) -> str:
        return self

    def __add__(self, other: object) -> str:
        # Markup escapes what it is added to; anything that is no text has its own complaint.
        if not isinstance(other, str) or hasattr(other, "__html__"):
            return NotImplemented
        return joined((self, other))

    def __radd__(self, other: object) -> str:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, count: SupportsIndex) -> str:
        text = str.__mul__(self, count)
        times = len(text) // len(self) if self else 0
        return joined([self] * times) if self._spans and times else text

    __rmul__ = __mul__

    def __mod__(self, values: object) -> str:
        text = str.__mod__(self, values)
        found = joined(_percent_parts(self, values)) if self._spans else text
        return found if found == text else text

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            at = range(len(self))[key]
            return _cut(self, at, at + 1)
        start, stop, step = key.indices(len(self))
        return _cut(self, start, max(start, stop)) if step == 1 else str.__getitem__(self, key)

    def join(self, parts: Iterable[str], /) -> str:
        texts = list(parts)
        between = [text for part in texts for text in (self, part)][1:]
        return joined(between) if all(isinstance(text, str) for text in texts) else str.join(self, texts)

    def strip(self, chars: str | None = None, /) -> str:
        start = len(self) - len(str.lstrip(self, chars))
        return _cut(self, start, max(start, len(str.rstrip(self, chars))))

    def lstrip(self, chars: str | None = None, /) -> str:
        return _cut(self, len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> str:
        return _cut(self, 0, len(str.rstrip(self, chars)))

    def removeprefix(self, prefix: str, /) -> str:
        return _cut(self, len(self) - len(str.removeprefix(self, prefix)), len(self))

    def removesuffix(self, suffix: str, /) -> str:
        return _cut(self, 0, len(str.removesuffix(self, suffix)))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return _split_parts(self, sep, str.split(self, sep, maxsplit))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return _split_parts(self, sep, str.rsplit(self, sep, maxsplit))

    def splitlines(self, keepends: bool = False) -> list[str]:
        found, at = [], 0
        for line in str.splitlines(self, keepends=True):
            end = at + len(line) if keepends else at + len(line.splitlines()[0])
            found.append(_cut(self, at, end))
            at += len(line)
        return found

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, _ = str.partition(self, sep)
        end = len(head) + len(middle)
        return _cut(self, 0, len(head)), _cut(self, len(head), end), _cut(self, end, len(self))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, _ = str.rpartition(self, sep)
        end = len(head) + len(middle)
        return _cut(self, 0, len(head)), _cut(self, len(head), end), _cut(self, end, len(self))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        text = str.replace(self, old, new, count)
        if not self._spans or not old:
            return text
        between = new if isinstance(new, Piece) else Piece(new)
        return between.join(self.split(old, count))

    def upper(self) -> str:
        return _same_length(self, str.upper(self))

    def lower(self) -> str:
        return _same_length(self, str.lower(self))

    def capitalize(self) -> str:
        return _same_length(self, str.capitalize(self))

    def title(self) -> str:
        return _same_length(self, str.title(self))


def trusted(text: str) -> Piece:
    """``text`` as the template's or the server's own words."""
    piece = Piece(text)
    piece._spans = ((0, len(text)),) if text else ()  # noqa: SLF001 - this module's own class
    return piece


def spans_of(text: str) -> Spans:
    """The trusted characters of a text."""
    spans: Spans = getattr(text, "_spans", ())
    return spans


def joined(texts: Iterable[str]) -> str:
    """The texts one after another, each character as trusted as it was."""
    parts = list(texts)
    spans: list[tuple[int, int]] = []
    at = 0
    for part in parts:
        for start, end in spans_of(part):
            if spans and spans[-1][1] == at + start:
                spans[-1] = (spans[-1][0], at + end)
            else:
                spans.append((at + start, at + end))
        at += len(part)
    return marked("".join(parts), tuple(spans))


def marked(text: str, spans: Spans) -> str:
    """``text`` with these trusted spans, which come from texts that it was made of."""
    if not spans:
        return text
    piece = Piece(text)
    piece._spans = spans  # noqa: SLF001 - this module's own class
    return piece


def _cut(piece: Piece, start: int, stop: int) -> str:
    clipped = ((max(a, start) - start, min(b, stop) - start) for a, b in spans_of(piece))
    return marked(str.__getitem__(piece, slice(start, stop)), tuple((a, b) for a, b in clipped if a < b))


def _same_length(piece: Piece, text: str) -> str:
    """A change of case maps each character to one or more; with no more characters than before it is one to one."""
    return marked(text, spans_of(piece)) if len(text) == len(piece) else text


def _split_parts(piece: Piece, sep: str | None, texts: list[str]) -> list[str]:
    """The parts again, with their trust. Between two parts lies ``sep``, or whitespace that no part starts with."""
    found, at = [], 0
    for text in texts:
        if sep is None:
            at = str.find(piece, text, at)
        found.append(_cut(piece, at, at + len(text)))
        at += len(text) + len(sep or "")
    return found


def _percent_parts(piece: Piece, values: object) -> Iterable[str]:
    """What ``%`` joins: the format's own characters and its values. ``%`` succeeded before, so no value is missing."""
    given = iter(values if isinstance(values, tuple) else (values,))
    at = 0
    for match in _PERCENT.finditer(piece):
        yield _cut(piece, at, match.start())
        at = match.end()
        if match["kind"] == "%":
            yield _cut(piece, at - 1, at)
        elif match["name"] is not None and isinstance(values, Mapping):
            yield _formatted(match[0].replace(f"({match['name']})", ""), values[match["name"]])
        else:
            yield _formatted(match[0], next(given, ""))
    yield _cut(piece, at, len(piece))


def _formatted(directive: str, value: Any) -> str:  # noqa: ANN401 - whatever a template formats
    try:
        return str(value) if directive == "%s" else str.__mod__(directive, (value,))
    except (TypeError, ValueError):
        return ""  # a width from the values, say: the caller notices that the texts differ
