"""Who holds which slot, and which tokens' rows each slot offers for reuse. Pure bookkeeping for the scheduler.

A slot is owned by a sequence, or retained (unowned, with the rows of an ended one), or empty. Knows no arrays.
"""

from __future__ import annotations

from runtime.engine.prefix_index import PrefixIndex
from runtime.engine.sequence import Sequence


class SlotTable:
    """Ownership and reusable contents of ``num_slots`` slots, with the prefix index over all contents."""

    def __init__(self, num_slots: int) -> None:
        self.owners: list[Sequence | None] = [None] * num_slots
        self.rows: list[list[int]] = [[] for _ in range(num_slots)]
        self._salts: list[str] = [""] * num_slots
        self._last_used: list[int] = [0] * num_slots
        self._clock = 0
        self._index = PrefixIndex()

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, slot: int, sequence: Sequence) -> None:
        """Give an unowned slot to a sequence; its old rows are no longer offered."""
        self.owners[slot] = sequence
        sequence.slot = slot
        self.offer(slot, [])

    def release(self, slot: int) -> None:
        """End the ownership; what the slot offers stays as it is."""
        self.owners[slot] = None
        self.touch(slot)

    def offer(self, slot: int, token_ids: list[int], salt: str = "") -> None:
        """Record the tokens whose rows in the slot later prompts of one salt may reuse; none for an empty list."""
        self.rows[slot] = token_ids
        self._salts[slot] = salt
        self._index.put(slot, token_ids, salt)

    def swap(self, first: int, second: int) -> None:
        """Exchange owners and contents of two slots, as the session exchanges their rows."""
        self.owners[first], self.owners[second] = self.owners[second], self.owners[first]
        self._last_used[first], self._last_used[second] = self._last_used[second], self._last_used[first]
        contents = [(self.rows[slot], self._salts[slot]) for slot in (first, second)]
        for slot, (token_ids, salt) in zip((second, first), contents, strict=True):
            self.offer(slot, token_ids, salt)
            owner = self.owners[slot]
            if owner is not None:
                owner.slot = slot

    def touch(self, slot: int) -> None:
        """Mark a slot as the most recently used."""
        self._clock += 1
        self._last_used[slot] = self._clock

    def longest_prefix(self, token_ids: list[int], salt: str = "") -> list[tuple[int, int]]:
        """Slots that offer the longest common prefix, as (slot, length); see ``PrefixIndex.longest``."""
        return self._index.longest(token_ids, salt)

    def vacant(self) -> int | None:
        """The slot to give away next: an empty one near the owned ones, else the one unused for longest.

        Nearness keeps the decode call's range of slots short.
        """
        owned = [slot for slot, owner in enumerate(self.owners) if owner is not None]
        low, high = (owned[0], owned[-1]) if owned else (0, 0)

        def cost(slot: int) -> tuple[int, int, int]:
            distance = max(low - slot, slot - high, 0)
            return (self._last_used[slot], 0, slot) if self.rows[slot] else (-1, distance, slot)

        return min((slot for slot, owner in enumerate(self.owners) if owner is None), key=cost, default=None)
