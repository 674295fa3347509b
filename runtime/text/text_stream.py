"""The text of one choice while its tokens arrive: whole characters only, stop strings found before they are shown.

Owns the way from TokenEvents to text pieces. A piece carries the tokens it accounts for, so log-probabilities travel
with the text they belong to. Knows no HTTP, no engine and no other choice.

Text is the UTF-8 of the tokens' bytes. An incomplete character waits for the tokens that complete it; bytes that no
token can complete become U+FFFD, one for each maximal ill-formed part as the Unicode standard recommends (3.9, D93b).

Under a constraint a stop string ends the choice only where what is left of the text satisfies the constraint, which
the tokens tell (``TokenEvent.ends``); elsewhere it is text like any other.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from runtime.events import TokenEvent
from runtime.text.stop_matcher import StopMatcher
from runtime.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextRules:
    """What becomes text and what ends it.

    ``end_token_ids`` are the tokens whose arrival ends the choice (the model's own end tokens unless ignored, and the
    request's): their text is left out unless ``include_stop``. ``min_tokens`` is the number of tokens in whose text
    no stop string is looked for. ``constrained``: the text is to satisfy a constraint, so end tokens never show in it.
    ``shown_ids`` are control tokens whose text is shown whatever becomes of the others'.
    """

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0
    end_token_ids: frozenset[int] = field(default_factory=frozenset)
    constrained: bool = False
    shown_ids: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of a choice and the tokens it accounts for. ``stop`` is the stop string that ended the choice."""

    text: str
    tokens: tuple[TokenEvent, ...]
    stop: str | None = None


class TextStream:
    """Turns one choice's tokens into text, a piece at a time.

    The pieces of ``push`` and ``finish`` joined are the choice's content, however the tokens were grouped. After a
    piece with ``stop`` the choice is over: the caller pushes nothing more.
    """

    __slots__ = ("_cuts", "_decoder", "_matcher", "_pending", "_rules", "_tokenizer", "_unshown", "num_tokens")

    def __init__(self, tokenizer: Tokenizer, rules: TextRules) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(rules.stops, keeps_stop=rules.include_stop) if rules.stops else None
        self._unshown = ""
        self._cuts: set[int] | None = set() if rules.constrained and rules.stops else None
        self._pending: list[TokenEvent] = []  # tokens that no piece accounts for yet
        self.num_tokens = 0

    def push(self, event: TokenEvent) -> TextDelta | None:
        """Add one token. Returns the text that may now be shown, or None while everything is held back."""
        self.num_tokens += 1
        self._pending.append(event)
        self._decode(event)
        held = 0
        if matcher := self._active_matcher():
            if (delta := self._cut(matcher)) is not None:
                return delta
            held = matcher.held_back(self._unshown)
        end = len(self._unshown) - held
        return self._release(end) if end else None

    def finish(self) -> TextDelta:
        """The rest of the text, when the choice ended for another reason than a stop string. May be empty.

        What becomes of an incomplete character may itself complete a stop string.
        """
        self._unshown += self._decoder.decode(b"", final=True)
        matcher = self._active_matcher()
        return (matcher and self._cut(matcher)) or self._release(len(self._unshown))

    def _decode(self, event: TokenEvent) -> None:
        """Add a token's text, and note at which places of the unshown text the text satisfies its constraint."""
        visible = self._visible_bytes(event.token_id)
        done = 0
        if self._cuts is not None:
            ends = event.ends
            if not visible and event.token_id not in self._rules.end_token_ids:  # its text counts, though not seen
                self._cuts.discard(len(self._unshown))
                ends = (0,) if len(self._tokenizer.token_bytes(event.token_id)) in ends else ()
            for end in ends:
                self._unshown += self._decoder.decode(visible[done:end])
                done = end
                if not self._decoder.getstate()[0]:  # not inside a character
                    self._cuts.add(len(self._unshown))
        self._unshown += self._decoder.decode(visible[done:])

    def _active_matcher(self) -> StopMatcher | None:
        return self._matcher if self.num_tokens > self._rules.min_tokens else None

    def _cut(self, matcher: StopMatcher) -> TextDelta | None:
        """The text up to a stop string in what was not shown yet, if there is one."""
        match = matcher.find(self._unshown, self._cuts)
        return None if match is None else self._release(match.cut, match.stop)

    def _visible_bytes(self, token_id: int) -> bytes:
        if token_id in self._rules.end_token_ids and (self._rules.constrained or not self._rules.include_stop):
            return b""
        is_hidden = token_id in self._tokenizer.special_ids and token_id not in self._rules.shown_ids
        if is_hidden and self._rules.skip_special_tokens:
            return b""
        return self._tokenizer.token_bytes(token_id)

    def _release(self, end: int, stop: str | None = None) -> TextDelta:
        delta = TextDelta(self._unshown[:end], tuple(self._pending), stop)
        self._unshown = self._unshown[end:]
        if self._cuts:
            self._cuts = {place - end for place in self._cuts if place >= end}
        self._pending.clear()
        return delta
