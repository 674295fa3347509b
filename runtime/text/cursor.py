"""Reading text that arrives in pieces, as if it were all there.

Owns the place in the text. A reader is a generator that yields where it must wait. It is written straight on, from one
character to the next, and is resumed where it stopped, so that nothing is read twice and no reader can tell how the
text was cut. Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from runtime.text.stop_matcher import StopMatcher

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A reader: it yields when the text that has arrived is used up, and returns what it read."""
_SPACES = re.compile(r"[ \t\r\n]*")


class Unparsable(Exception):
    """The text is not what the reader reads. The cursor stands at the first character that did not fit."""


class Marks:
    """Texts that are looked for, the earliest first, of several at one place the one named first."""

    __slots__ = ("_matcher", "_pattern")

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._matcher = StopMatcher(texts)
        self._pattern = re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def find(self, text: str, start: int) -> re.Match[str] | None:
        """The first one from ``start`` on."""
        return self._pattern.search(text, start)

    def held_back(self, text: str, start: int) -> int:
        """How many characters at the end of ``text[start:]`` may yet become one, given that ``find`` found none."""
        return self._matcher.held_back(text[start:])


class Cursor:
    """The text from the first unread character on. ``ended`` says that no more will come."""

    __slots__ = ("_kept", "_mark", "buffer", "ended", "position")

    def __init__(self) -> None:
        self.buffer = ""
        self.position = 0
        self.ended = False
        self._kept: list[str] = []
        self._mark: int | None = None

    def feed(self, text: str) -> None:
        """Add text; what was read is let go, but for what was read since ``mark``."""
        if self._mark is not None:
            self._kept.append(self.buffer[self._mark : self.position])
            self._mark = 0
        self.buffer = self.buffer[self.position :] + text
        self.position = 0

    def mark(self) -> None:
        """From here on what is read is kept for ``since_mark``."""
        self._kept.clear()
        self._mark = self.position

    def since_mark(self) -> str:
        """The text between ``mark`` and here, which is no longer kept."""
        text = "".join(self._kept) + self.buffer[self._mark or 0 : self.position]
        self.unmark()
        return text

    def unmark(self) -> None:
        """What is read need not be kept."""
        self._kept.clear()
        self._mark = None

    def peek(self) -> Steps[str]:
        """The next character, which stays unread; empty at the end of the text."""
        while self.position == len(self.buffer) and not self.ended:
            yield
        return self.buffer[self.position : self.position + 1]

    def accepts(self, text: str) -> Steps[bool]:
        """Whether ``text`` comes next; if so it is read."""
        while not self.buffer.startswith(text, self.position):
            rest = len(self.buffer) - self.position
            if self.ended or rest >= len(text) or not self.buffer.endswith(text[:rest]):
                return False
            yield
        self.position += len(text)
        return True

    def accepts_any(self, texts: tuple[str, ...]) -> Steps[str]:
        """The first of ``texts`` that comes next, which is read; empty if none does."""
        for text in texts:
            if (yield from self.accepts(text)):
                return text
        return ""

    def expect(self, text: str) -> Steps[None]:
        """Read exactly ``text``."""
        if not (yield from self.accepts(text)):
            raise Unparsable

    def expect_or_end(self, text: str) -> Steps[None]:
        """Read ``text``, or as much of it as there is where the whole text ends: models leave out closing marks."""
        if (yield from self.accepts(text)):
            return
        rest = self.buffer[self.position :]
        if not self.ended or not text.startswith(rest):
            raise Unparsable
        self.position += len(rest)

    def run(self, pattern: re.Pattern[str], sink: Callable[[str], object]) -> Steps[None]:
        """Read what ``pattern``, a character class repeated from nothing on, matches; ``sink`` gets it in pieces."""
        while True:
            match = pattern.match(self.buffer, self.position)
            end = match.end() if match else self.position
            sink(self.buffer[self.position : end])
            self.position = end
            if end < len(self.buffer) or self.ended:
                return
            yield

    def text(self, pattern: re.Pattern[str]) -> Steps[str]:
        """As ``run``, as one text."""
        pieces: list[str] = []
        yield from self.run(pattern, pieces.append)
        return "".join(pieces)

    def spaces(self) -> Steps[None]:
        """Read white space, if there is any."""
        yield from self.run(_SPACES, len)

    def until(self, ends: Marks, sink: Callable[[str], object]) -> Steps[str]:
        """Read up to and with the first of ``ends``, which is returned; ``sink`` gets what stands before it."""
        while (found := ends.find(self.buffer, self.position)) is None:
            safe = len(self.buffer) - (0 if self.ended else ends.held_back(self.buffer, self.position))
            sink(self.buffer[self.position : safe])
            self.position = safe
            if self.ended:
                raise Unparsable
            yield
        sink(self.buffer[self.position : found.start()])
        self.position = found.end()
        return found.group()

    def text_until(self, ends: Marks) -> Steps[str]:
        """As ``until``, but what stands before it is returned."""
        pieces: list[str] = []
        yield from self.until(ends, pieces.append)
        return "".join(pieces)
