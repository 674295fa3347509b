"""Tells an answer's calls from its text, as it arrives: the AnswerParser of every format.

Owns where a call may begin, what is held back, and what becomes of text that turns out to be no call. A format brings
its opening marks and a reader for what follows one (``Reader``). Knows no format's inside.

A *block* is what a reader reads at once: one call, or several inside common marks. What counts, counts for the whole
block: it is all calls, or all of it, to the character that did not fit, is content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta
from runtime.text.cursor import Cursor, Marks, Steps, Unparsable
from runtime.text.tool_calls.calls import Calls
from runtime.text.tool_calls.tool import Tool

Reader = Callable[[Cursor, Calls], Steps[None]]
"""Reads one block, its opening mark first, and puts its calls into ``Calls``. Raises Unparsable, after the mark."""
_BLANK = " \t\r\n"
_NOT_BLANK = re.compile(rf"[^{_BLANK}]")


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a block may begin: at one of ``marks``, or at one of the characters ``bare`` where an answer begins."""

    marks: tuple[str, ...] = ()
    bare: str = ""


class ToolCallParser:
    """An AnswerParser. White space beside calls is no content.

    ``eager`` tells a call as soon as it is settled and its arguments as they come: for text that cannot break, since a
    constraint enforces it. What is settled stays told; if the text breaks all the same, the rest of it is dropped. A
    parser that is not eager tells a block when it is complete. ``single`` tells the first call and nothing after it.
    ``leading``: a call stands before all content or is none, for an answer that is calls or else held to something.
    """

    __slots__ = (
        "_bare", "_before", "_block", "_calls", "_cursor", "_eager", "_has_content", "_leading", "_marks", "_over",
        "_reader", "_single", "_space",
    )  # fmt: skip

    reasoning_chars = 0

    def __init__(
        self,
        opening: Opening,
        reader: Reader,
        tools: Sequence[Tool],
        *,
        single: bool = False,
        eager: bool = False,
        leading: bool = False,
    ) -> None:
        self._reader = reader
        self._single = single
        self._eager = eager
        self._leading = leading
        self._bare = opening.bare
        self._marks = Marks(opening.marks)
        self._calls = Calls(tools)
        self._cursor = Cursor()
        self._block: Steps[None] | None = None
        self._before = 0  # calls before this block
        self._over = False  # whatever follows is dropped
        self._space: list[str] = []  # white space that is content only if content follows
        self._has_content = False

    def feed(self, text: str) -> list[AnswerDelta]:
        """What these characters settle."""
        if self._over:
            return []
        self._cursor.feed(text)
        return self._advance()

    def finish(self, *, cut: bool = False) -> list[AnswerDelta]:
        """The rest. ``cut`` says that the model would have gone on: then a call that is settled is told as far as it
        goes, and what may have become a mark or a call is dropped; otherwise both are content."""
        self._cursor.ended = not cut
        deltas = self._advance()
        if self._over:
            return deltas
        dropped = self._block is not None or self._cursor.position < len(self._cursor.buffer)
        if self._block is not None:
            deltas += self._tell()
        if self._space and not dropped and not self._calls.count:
            deltas.append(ContentDelta("".join(self._space)))
        self._over = True
        return deltas

    def _advance(self) -> list[AnswerDelta]:
        deltas: list[AnswerDelta] = []
        going = True
        while going and not self._over:
            going = self._search(deltas) if self._block is None else self._read(self._block, deltas)
        return deltas

    def _search(self, deltas: list[AnswerDelta]) -> bool:
        """Tell the text before the next block; False where none begins in what has arrived."""
        cursor = self._cursor
        begin = self._next_opening()
        end = self._settled_end() if begin is None else begin
        self._content(cursor.buffer[cursor.position : end], deltas)
        cursor.position = end
        if begin is None:
            return False
        cursor.mark()
        self._block = self._reader(cursor, self._calls)
        self._before = self._calls.count
        return True

    def _settled_end(self) -> int:
        """Where the text ends that is no mark and cannot become one."""
        cursor = self._cursor
        held = 0 if cursor.ended else self._marks.held_back(cursor.buffer, cursor.position)
        return len(cursor.buffer) - held

    def _next_opening(self) -> int | None:
        cursor = self._cursor
        first = None if self._has_content else _NOT_BLANK.search(cursor.buffer, cursor.position)
        if first and first.group() in self._bare:
            return first.start()
        found = self._marks.find(cursor.buffer, cursor.position)
        if found and self._leading and (first is None or first.start() != found.start()):
            return None
        return found.start() if found else None

    def _read(self, block: Steps[None], deltas: list[AnswerDelta]) -> bool:
        """Go on with a block; False where it needs more text."""
        try:
            next(block)
        except StopIteration:
            self._block = None
            self._cursor.unmark()
            deltas += self._tell()
            self._over = self._single
            return True
        except Unparsable:
            self._block = None
            self._give_up(deltas)
            return True
        deltas += self._tell() if self._eager else []
        return False

    def _give_up(self, deltas: list[AnswerDelta]) -> None:
        if self._eager and self._calls.count > self._before:
            deltas += self._tell()
            self._over = True
            return
        self._calls.forget(self._before)
        self._content(self._cursor.since_mark(), deltas)

    def _tell(self) -> list[AnswerDelta]:
        deltas = self._calls.take()
        if self._single:
            return [delta for delta in deltas if isinstance(delta, CallStarted | ArgumentsDelta) and not delta.index]
        return deltas

    def _content(self, text: str, deltas: list[AnswerDelta]) -> None:
        solid = text.rstrip(_BLANK)
        if solid:
            lead = "".join(self._space)
            self._space.clear()
            whole = lead + solid
            if self._calls.count and not self._has_content:
                whole = whole.lstrip(_BLANK)
            deltas.append(ContentDelta(whole))
            self._has_content = True
        if len(solid) < len(text):
            self._space.append(text[len(solid) :])
