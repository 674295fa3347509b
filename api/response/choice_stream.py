"""One choice's way from tokens to what they mean: text, then content, reasoning and calls of tools.

Chains the incremental detokenizer and the parser of the answer's form. Streamed and plain answers read the same pieces,
so they cannot differ. Knows no engine, no other choice and no JSON.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from runtime.events import TokenEvent
from runtime.text.answer_delta import (
    AnswerDelta,
    AnswerParser,
    ArgumentsDelta,
    CallStarted,
    ContentDelta,
    ReasoningDelta,
)
from runtime.text.text_stream import TextDelta, TextStream, TextToken


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """How the text of an answer is read.

    Without ``new_parser`` all of it is content. ``calls_only``: the text is nothing but calls, so what is no call is a
    cut-off one and is not shown. ``call_finish`` is the finish reason of a choice that ends by itself after a call.
    ``reads_reasoning``: the model's answers may hold a reasoning section.
    """

    new_parser: Callable[[], AnswerParser] | None = None
    calls_only: bool = False
    call_finish: str = "tool_calls"
    reads_reasoning: bool = False
    shows_reasoning: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """What some tokens settled. ``stop`` is the stop string that ended the choice."""

    deltas: tuple[AnswerDelta, ...]
    tokens: tuple[TextToken, ...]
    stop: str | None = None


class ChoiceStream:
    """Turns one choice's tokens into deltas. The caller pushes nothing more after a piece with ``stop``.

    A piece carries the tokens that it accounts for: those of text that is held back, because it may become a mark or a
    call, travel with what releases them. ``hidden_marks`` are control tokens' names that only the parser may see.
    ``num_reasoning_tokens`` are those that begin before the reasoning section's end, its marks among them.
    """

    def __init__(self, text: TextStream, form: AnswerForm, *, hidden_marks: tuple[str, ...] = ()) -> None:
        self._hidden_marks = hidden_marks
        self._text = text
        self._form = form
        self._parser = form.new_parser() if form.new_parser is not None else None
        self._held: tuple[TextToken, ...] = ()
        self._num_calls = 0
        self._places: deque[int] = deque()  # of the tokens that are not known to be reasoning
        self.num_reasoning_tokens = 0

    @property
    def num_tokens(self) -> int:
        """Tokens pushed so far."""
        return self._text.num_tokens

    def push(self, event: TokenEvent) -> Piece | None:
        """Add one token. Returns what may now be shown, or None while everything is held back."""
        delta = self._text.push(event)
        if delta is None:
            return None
        if delta.stop is not None:
            return self._last(delta, cut=False)
        piece = self._piece(delta, self._read(delta))
        if piece.deltas:
            return piece
        self._held = piece.tokens
        return None

    def finish(self, *, cut: bool) -> Piece:
        """The rest, when the choice ended for another reason than a stop string. May be empty.

        ``cut``: the choice has all the tokens that it may have, and would have gone on.
        """
        return self._last(self._text.finish(), cut=cut)

    def finish_reason(self, reason: str) -> str:
        """The finish reason that clients see for the engine's: a stop after a call is a call's end."""
        return self._form.call_finish if reason == "stop" and self._num_calls else reason

    def _last(self, delta: TextDelta, *, cut: bool) -> Piece:
        read = self._read(delta)
        rest = self._parser.finish(cut=cut and delta.stop is None) if self._parser is not None else []
        return self._piece(delta, [*read, *rest])

    def _read(self, delta: TextDelta) -> list[AnswerDelta]:
        if self._parser is None:
            return [ContentDelta(delta.text)] if delta.text else []
        read = self._parser.feed(delta.text)
        self._places.extend(token.place for token in delta.tokens)
        while self._places and self._places[0] < self._parser.reasoning_chars:
            self._places.popleft()
            self.num_reasoning_tokens += 1
        return read

    def _piece(self, delta: TextDelta, read: Sequence[AnswerDelta]) -> Piece:
        deltas = tuple(shown for found in joined(read) if (shown := self._shown(found)) is not None)
        tokens = self._held + delta.tokens
        self._held = ()
        if not self._form.shows_reasoning and not deltas and any(isinstance(found, ReasoningDelta) for found in read):
            tokens = ()  # their log-probabilities would tell what is not shown
        return Piece(deltas, tokens, delta.stop)

    def _shown(self, delta: AnswerDelta) -> AnswerDelta | None:
        """``delta`` as a client gets it, None for what it does not."""
        form = self._form
        match delta:
            case ContentDelta(text):
                for mark in self._hidden_marks:
                    text = text.replace(mark, "")
                return ContentDelta(text) if text and not form.calls_only else None
            case ReasoningDelta():
                return delta if form.shows_reasoning else None
            case CallStarted(index) | ArgumentsDelta(index):
                self._num_calls = max(self._num_calls, index + 1)
                return delta


def joined(deltas: Iterable[AnswerDelta]) -> list[AnswerDelta]:
    """The same deltas with neighbours of one kind as one."""
    found: list[AnswerDelta] = []
    for delta in deltas:
        match (found[-1] if found else None), delta:
            case ContentDelta(before), ContentDelta(text):
                found[-1] = ContentDelta(before + text)
            case ReasoningDelta(before), ReasoningDelta(text):
                found[-1] = ReasoningDelta(before + text)
            case ArgumentsDelta(index, before), ArgumentsDelta(same, text) if index == same:
                found[-1] = ArgumentsDelta(index, before + text)
            case _:
                found.append(delta)
    return found
