"""Guesses the next tokens of a sequence from its own past: prompt lookup, no second model.

When the last few tokens occurred before, what followed them then is the draft (Saxena, "Prompt Lookup Decoding",
2023). The draft's length adapts, and drafting pauses after misses, so text that never repeats costs next to nothing.
Pure bookkeeping on token ids; whoever verifies a draft reports how much of it was right.
"""

from __future__ import annotations

NGRAM_TOKENS = 3
_FIRST_DRAFT_TOKENS = 2
_MAX_PAUSE_TOKENS = 64


class NgramDraft:
    """The drafts of one sequence. Feed every token in order with ``observe``."""

    def __init__(self, max_draft_tokens: int) -> None:
        self._max = max_draft_tokens
        self._length = min(_FIRST_DRAFT_TOKENS, max_draft_tokens)
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        self._pause = 1
        self._resume_at = 0

    @property
    def num_observed(self) -> int:
        """Tokens fed so far."""
        return len(self._tokens)

    def observe(self, token_id: int) -> None:
        """Append the sequence's next token."""
        # The n-gram before this token is indexed only now, so that a lookup never finds the tail itself.
        if len(self._tokens) >= NGRAM_TOKENS:
            self._followers[tuple(self._tokens[-NGRAM_TOKENS:])] = len(self._tokens)
        self._tokens.append(token_id)

    def propose(self, limit: int) -> list[int]:
        """At most ``limit`` tokens that followed the last occurrence of the tail; empty when there is none."""
        if len(self._tokens) < max(self._resume_at, NGRAM_TOKENS):
            return []
        begin = self._followers.get(tuple(self._tokens[-NGRAM_TOKENS:]))
        if begin is None:
            return []
        return self._tokens[begin : begin + min(self._length, limit)]

    def report(self, num_drafted: int, num_accepted: int) -> None:
        """Learn from a verified draft: all right doubles the next one, all wrong pauses for ever longer."""
        if num_accepted == num_drafted:
            self._length = min(self._length * 2, self._max)
        elif num_accepted == 0:
            self._length = min(_FIRST_DRAFT_TOKENS, self._max)
        if num_accepted:
            self._pause = 1
            return
        self._pause = min(self._pause * 2, _MAX_PAUSE_TOKENS)
        self._resume_at = len(self._tokens) + self._pause
