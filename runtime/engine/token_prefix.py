"""The beginning of a sequence's tokens, as a slot offers it for reuse: a view of the sequence's own list, no copy.

A sequence's list only ever grows, and at its end, so list and length say which tokens are meant for as long as
anyone looks. A chain of hashes names each beginning of whole blocks. A salt begins the chain and is compared with the
tokens, so prefixes of different salts never meet, whatever their hashes. Knows token ids; knows no slots, no caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK_TOKENS = 16
"""Prefixes shorter than a block are not worth a copy of cache rows and are not found."""


@dataclass(slots=True, eq=False)
class TokenPrefix:
    """The first ``num_tokens`` of ``token_ids``, false when there are none; only prompts of the same ``salt`` share it.

    ``links`` holds a hash per whole block.
    """

    token_ids: Sequence[int]
    num_tokens: int
    salt: str = ""
    links: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.links = []
        link = hash(self.salt)
        for end in range(BLOCK_TOKENS, self.num_tokens + 1, BLOCK_TOKENS):
            link = hash((link, *self.token_ids[end - BLOCK_TOKENS : end]))
            self.links.append(link)

    def __len__(self) -> int:
        return self.num_tokens

    def common_length(self, other: TokenPrefix) -> int:
        """How many tokens both begin with; none if their salts differ."""
        if self.salt != other.salt:
            return 0
        shorter = min(self.num_tokens, other.num_tokens)
        mine, theirs = self.token_ids, other.token_ids
        return next((place for place in range(shorter) if mine[place] != theirs[place]), shorter)


NOTHING = TokenPrefix((), 0)
"""What a slot offers whose rows are of no use to anyone."""
