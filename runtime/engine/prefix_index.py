"""Which slot shares the longest prefix with a prompt. Exact, and fast at a thousand entries.

A lookup walks the prompt's chain of blocks once and compares tokens only with the few slots that share its last known
block. Knows slot numbers and token ids; knows nothing of caches or sequences.
"""

from __future__ import annotations

from runtime.engine.token_prefix import BLOCK_TOKENS, TokenPrefix


class PrefixIndex:
    """Maps prefixes of whole blocks to the slots that hold them."""

    def __init__(self) -> None:
        self._slots_by_link: dict[int, set[int]] = {}
        self._prefixes: dict[int, TokenPrefix] = {}

    def put(self, slot: int, prefix: TokenPrefix) -> None:
        """Say that a slot now holds the rows of ``prefix``, whatever it held before."""
        self._remove(slot)
        if prefix.links:
            self._prefixes[slot] = prefix
        for link in prefix.links:
            self._slots_by_link.setdefault(link, set()).add(slot)

    def longest(self, wanted: TokenPrefix) -> list[tuple[int, int]]:
        """Slots with the longest common prefix as (slot, number of equal tokens); empty when none shares a block."""
        candidates: set[int] = set()
        for link in wanted.links:
            slots = self._slots_by_link.get(link)
            if not slots:
                break
            candidates = slots
        lengths = [(slot, wanted.common_length(self._prefixes[slot])) for slot in sorted(candidates)]
        best = max((length for _, length in lengths), default=0)
        return [(slot, length) for slot, length in lengths if length == best and best >= BLOCK_TOKENS]

    def _remove(self, slot: int) -> None:
        prefix = self._prefixes.pop(slot, None)
        for link in prefix.links if prefix is not None else ():
            slots = self._slots_by_link[link]
            slots.discard(slot)
            if not slots:
                del self._slots_by_link[link]
