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
    """The drafts of one sequence, whose list of tokens it reads as that grows."""

    def __init__(self, token_ids: list[int], max_draft_tokens: int) -> None:
        self._token_ids = token_ids
        self.max_tokens = max_draft_tokens
        self._length = min(_FIRST_DRAFT_TOKENS, max_draft_tokens)
        self._num_seen = 0
        self._followers: dict[tuple[int, ...], int] = {}
        self._pause = 1
        self._resume_at = 0

    def propose(self, limit: int) -> list[int]:
        """At most ``limit`` tokens that followed the last occurrence of the tail; empty when there is none."""
        self._catch_up()
        if self._num_seen < max(self._resume_at, NGRAM_TOKENS):
            return []
        begin = self._followers.get(tuple(self._token_ids[-NGRAM_TOKENS:]))
        if begin is None:
            return []
        return self._token_ids[begin : begin + min(self._length, limit)]

    def report(self, num_drafted: int, num_accepted: int) -> None:
        """Learn from a verified draft: all right doubles the next one, all wrong pauses for ever longer."""
        if num_accepted == num_drafted:
            self._length = min(self._length * 2, self.max_tokens)
        elif num_accepted == 0:
            self._length = min(_FIRST_DRAFT_TOKENS, self.max_tokens)
        if num_accepted:
            self._pause = 1
            return
        self._pause = min(self._pause * 2, _MAX_PAUSE_TOKENS)
        self._resume_at = self._num_seen + self._pause

    def _catch_up(self) -> None:
        """Index every n-gram that a token follows; the tail is not, so that a lookup never finds the tail itself."""
        for end in range(max(self._num_seen, NGRAM_TOKENS), len(self._token_ids)):
            self._followers[tuple(self._token_ids[end - NGRAM_TOKENS : end])] = end
        self._num_seen = len(self._token_ids)
