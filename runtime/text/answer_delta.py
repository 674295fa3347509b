"""What an answer's text turns out to be, piece by piece: content, reasoning, or a call of a tool. Values only.

The agreement between the parsers of reasoning sections and tool calls and whoever writes answers. Knows no format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of a reasoning section, without its marks."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The ``index``-th call of this answer begins, counted from 0: the function ``name`` is known, whole."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of the arguments of call ``index``; all pieces joined are a JSON object's text."""

    index: int
    text: str


AnswerDelta = ContentDelta | ReasoningDelta | CallStarted | ArgumentsDelta


class AnswerParser(Protocol):
    """Reads one choice's text as it arrives. However the text is cut into pieces, the deltas joined are the same."""

    @property
    def reasoning_chars(self) -> int:
        """How many characters the text's reasoning section has so far, from the text's start to its closing mark."""
        ...

    def feed(self, text: str) -> list[AnswerDelta]:
        """What these characters settle; text that may still become a mark or a call is held back. Never raises."""
        ...

    def finish(self, *, cut: bool = False) -> list[AnswerDelta]:
        """The rest, at the end of the text. What was held back and became no call comes out as content.

        ``cut`` says that the text ends before its end (finish reason ``length``): then a call that is settled comes
        out as far as it goes, and what may have become a mark or a call is dropped.
        """
        ...
