"""Which slot shares the longest prefix with a prompt. Exact, and fast at a thousand entries.

Token lists are cut into blocks; a chain of hashes names each prefix of whole blocks, so a lookup walks the prompt
once and compares tokens only with the few slots that share its last known block. A salt begins the chain and is
compared with the tokens, so entries of different salts never meet, whatever their hashes. Knows slot numbers, salts
and token ids; knows nothing of caches or sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

BLOCK_TOKENS = 16
"""Prefixes shorter than a block are not worth a copy and are not found."""


class PrefixIndex:
    """Maps prefixes of whole blocks to the slots that hold them."""

    def __init__(self) -> None:
        self._slots_by_chain: dict[int, set[int]] = {}
        self._tokens: dict[int, tuple[int, ...]] = {}
        self._salts: dict[int, str] = {}
        self._chains: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def put(self, slot: int, token_ids: Sequence[int], salt: str = "") -> None:
        """Say that a slot now holds the rows of ``token_ids`` for prompts of one salt, whatever it held before."""
        self.remove(slot)
        if len(token_ids) < BLOCK_TOKENS:
            return
        self._tokens[slot] = tuple(token_ids)
        self._salts[slot] = salt
        self._chains[slot] = _chain(token_ids, salt)
        for link in self._chains[slot]:
            self._slots_by_chain.setdefault(link, set()).add(slot)

    def remove(self, slot: int) -> None:
        """Forget what a slot holds."""
        if self._tokens.pop(slot, None) is None:
            return
        del self._salts[slot]
        for link in self._chains.pop(slot):
            slots = self._slots_by_chain[link]
            slots.discard(slot)
            if not slots:
                del self._slots_by_chain[link]

    def longest(self, token_ids: Sequence[int], salt: str = "") -> list[tuple[int, int]]:
        """Slots with the longest common prefix as (slot, number of equal tokens); empty when none shares a block.

        Slots of another salt share nothing.
        """
        candidates: set[int] = set()
        for link in _chain(token_ids, salt):
            slots = self._slots_by_chain.get(link)
            if not slots:
                break
            candidates = slots
        mine = [slot for slot in sorted(candidates) if self._salts[slot] == salt]
        wanted = tuple(token_ids)
        lengths = [(slot, _common_prefix(self._tokens[slot], wanted)) for slot in mine]
        best = max((length for _, length in lengths), default=0)
        return [(slot, length) for slot, length in lengths if length == best and best >= BLOCK_TOKENS]


def _chain(token_ids: Sequence[int], salt: str) -> list[int]:
    links: list[int] = []
    link = hash(salt)
    for end in range(BLOCK_TOKENS, len(token_ids) + 1, BLOCK_TOKENS):
        link = hash((link, *token_ids[end - BLOCK_TOKENS : end]))
        links.append(link)
    return links


def _common_prefix(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:  # the usual case, at the speed of one comparison
        return shorter
    length = 0
    for left, right in zip(first, second, strict=False):
        if left != right:
            break
        length += 1
    return length
