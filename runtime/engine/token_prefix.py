"""The beginning of a sequence's tokens, as a slot offers it for reuse: a view of the sequence's own list, no copy.

A sequence's list only ever grows, and at its end, so list and length say which tokens are meant for as long as
anyone looks. Prefixes of different salts never meet. Knows token ids; knows no slots, no caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCK_TOKENS = 16
"""Prefixes shorter than a block are not worth a copy of cache rows and are not found."""

_COMPARED_AT_ONCE = 256


@dataclass(frozen=True, slots=True, eq=False)
class TokenPrefix:
    """The first ``num_tokens`` of ``token_ids``, false when there are none. Prompts of the same ``salt`` share it."""

    token_ids: Sequence[int]
    num_tokens: int
    salt: str = ""

    def __len__(self) -> int:
        return self.num_tokens


NOTHING = TokenPrefix((), 0)
"""What a slot offers whose rows are of no use to anyone."""


def first_difference(mine: Sequence[int], theirs: Sequence[int], start: int, stop: int) -> int:
    """The first place from ``start`` on where two sequences differ, ``stop`` if they do not before it.

    Compares slices, which takes a hundredth of comparing tokens one by one.
    """
    while start < stop:
        end = min(start + _COMPARED_AT_ONCE, stop)
        if mine[start:end] != theirs[start:end]:
            for place in range(start, end):
                if mine[place] != theirs[place]:
                    return place
        start = end
    return stop
