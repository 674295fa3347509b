"""Tells an answer's reasoning section from what follows it, as it arrives.

Owns the section alone: what follows goes to another AnswerParser, of tool calls or of plain text. Knows no constraint.
"""

from __future__ import annotations

import re

from runtime.text.answer_delta import AnswerDelta, AnswerParser, ContentDelta, ReasoningDelta
from runtime.text.cursor import Cursor, Marks, Steps, Unparsable
from runtime.text.reasoning.forms import ReasoningForm, Section

_BLANK = " \t\r\n"
_BLANKS = re.compile(rf"[{_BLANK}]*")
_LINE_FEEDS = re.compile(r"[\r\n]*")


class ContentParser:
    """The AnswerParser of an answer that is all content."""

    __slots__ = ()

    reasoning_chars = 0

    def feed(self, text: str) -> list[AnswerDelta]:
        """The text, as it is."""
        return [ContentDelta(text)] if text else []

    def finish(self, *, cut: bool = False) -> list[AnswerDelta]:
        """Nothing: all was told."""
        return []


class ReasoningParser:
    """An AnswerParser: a reasoning section first, if there is one, and ``following`` for what comes after it.

    White space around the reasoning is no part of it, and line feeds before the answer are no content. Text without a
    section is all the answer's; a section that does not end is all reasoning.

    ``exact`` is for an answer that a constraint holds to the character: it reads what ``ReasoningForm.before`` lets a
    model write, no other marks and no white space but the form's gap.
    """

    __slots__ = (
        "_cursor", "_deltas", "_exact", "_following", "_form", "_num_chars", "_section", "_section_chars", "_space",
        "_steps",
    )  # fmt: skip

    def __init__(self, form: ReasoningForm, section: Section, following: AnswerParser, *, exact: bool = False) -> None:
        self._form = form
        self._section = section
        self._following = following
        self._exact = exact
        self._cursor = Cursor()
        self._deltas: list[AnswerDelta] = []
        self._space: list[str] = []  # white space that is reasoning only if more follows
        self._num_chars = 0  # that were read here; what follows the section is not
        self._section_chars: int | None = None if section is Section.OPEN else 0  # None while it is open
        self._steps: Steps[None] | None = None if section is Section.CLOSED else self._read()

    @property
    def reasoning_chars(self) -> int:
        """See AnswerParser. Of a section that is open, all that has arrived."""
        return self._num_chars if self._section_chars is None else self._section_chars

    def feed(self, text: str) -> list[AnswerDelta]:
        """What these characters settle."""
        if self._steps is None:
            return self._following.feed(text)
        self._cursor.feed(text)
        self._num_chars += len(text)
        return self._advance()

    def finish(self, *, cut: bool = False) -> list[AnswerDelta]:
        """The rest. ``cut``: what may have become a mark is dropped."""
        deltas: list[AnswerDelta] = []
        if not cut and self._steps is not None:
            self._cursor.ended = True
            deltas = self._advance()
        return deltas + self._following.finish(cut=cut)

    def _advance(self) -> list[AnswerDelta]:
        if self._steps is None:
            return []
        try:
            next(self._steps)
        except (StopIteration, Unparsable):  # Unparsable: the text ends inside the section
            self._steps = None
            rest = self._cursor.buffer[self._cursor.position :]
            self._deltas += self._following.feed(rest) if rest else []
        told, self._deltas = self._deltas, []
        return told

    def _read(self) -> Steps[None]:
        cursor, form = self._cursor, self._form
        before = "" if self._exact else (yield from cursor.text(_BLANKS))
        begin = yield from cursor.accepts_any(form.begins)
        if not begin and form.skip and (yield from cursor.accepts(form.skip)):
            self._section_chars = 0
            return
        if not begin and self._section is Section.POSSIBLE:
            self._deltas += self._following.feed(before) if before else []
            return
        self._section_chars = None
        yield from cursor.spaces()
        yield from cursor.until(Marks((form.end, *(() if self._exact else form.other_ends))), self._reason)
        self._section_chars = self._num_chars - (len(cursor.buffer) - cursor.position)
        if self._exact:
            yield from cursor.accepts(form.gap)
        else:
            yield from cursor.run(_LINE_FEEDS, len)

    def _reason(self, text: str) -> None:
        solid = text.rstrip(_BLANK)
        if solid:
            self._deltas.append(ReasoningDelta("".join(self._space) + solid))
            self._space.clear()
        if len(solid) < len(text):
            self._space.append(text[len(solid) :])
