"""Who holds which slot, and which tokens' rows each slot offers for reuse. Pure bookkeeping for the scheduler.

A slot is owned by a sequence, or retained (unowned, with the rows of an ended one), or empty. Knows no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.engine.prefix_index import PrefixIndex
from runtime.engine.sequence import Sequence
from runtime.engine.token_prefix import NOTHING, TokenPrefix


@dataclass(slots=True)
class SlotMove:
    """Rows on their way into an empty slot: ``num_copied`` are there. The source is in use until all are."""

    source: int
    target: int
    num_copied: int = 0
    is_complete: bool = False


class SlotTable:
    """Ownership and reusable contents of ``num_slots`` slots, with the prefix index over all contents.

    Slots are given away from the lowest on, or, with ``keep_near``, near those that are owned.
    """

    def __init__(self, num_slots: int, *, keep_near: bool = True) -> None:
        self._keep_near = keep_near
        self.owners: list[Sequence | None] = [None] * num_slots
        self.rows: list[TokenPrefix] = [NOTHING] * num_slots
        self._last_used: list[int] = [0] * num_slots
        self._clock = 0
        self._index = PrefixIndex()
        self._move: SlotMove | None = None

    def take(self, slot: int, sequence: Sequence) -> None:
        """Give an unowned slot to a sequence; its old rows are no longer offered."""
        self.owners[slot] = sequence
        sequence.slot = slot
        self.offer(slot, NOTHING)

    def release(self, slot: int) -> None:
        """End the ownership; what the slot offers stays as it is."""
        self.owners[slot] = None
        self.touch(slot)

    def offer(self, slot: int, prefix: TokenPrefix) -> None:
        """Record the tokens whose rows in the slot later prompts may reuse. Ends a move from or to the slot."""
        if self._move is not None and slot in {self._move.source, self._move.target}:
            self._move = None
        self.rows[slot] = prefix
        self._index.put(slot, prefix)

    def num_rows(self, slot: int) -> int:
        """How many of the slot's rows are of use."""
        owner = self.owners[slot]
        if owner is not None:
            return owner.num_computed
        if self._move is not None and slot == self._move.target:
            return self._move.num_copied
        return len(self.rows[slot])

    def moving(self, source: int, target: int) -> SlotMove:
        """The move between two slots, as far as it has come; another one under way is given up."""
        if self._move is None or (self._move.source, self._move.target) != (source, target):
            self._move = SlotMove(source, target)
        return self._move

    def complete(self, move: SlotMove) -> None:
        """Give owner and contents of the source to the target, which holds all of its rows by now."""
        source, target = move.source, move.target
        owner, self.owners[source] = self.owners[source], None
        self.owners[target] = owner
        if owner is not None:
            owner.slot = target
        self._last_used[target] = self._last_used[source]
        self.offer(target, self.rows[source])
        self.offer(source, NOTHING)
        move.is_complete = True

    def undo(self, move: SlotMove) -> None:
        """Take a move back, complete or not: its rows did not reach the target. The source has them still.

        Unless the source was given away since, whose new owner writes over them.
        """
        source, target = move.source, move.target
        if move.is_complete and self.owners[source] is None:
            owner, self.owners[target] = self.owners[target], None
            self.owners[source] = owner
            if owner is not None:
                owner.slot = source
            self.offer(source, self.rows[target])
        self.offer(target, NOTHING)

    def touch(self, slot: int) -> None:
        """Mark a slot as the most recently used."""
        self._clock += 1
        self._last_used[slot] = self._clock

    def longest_prefix(self, wanted: TokenPrefix) -> list[tuple[int, int]]:
        """Slots that offer the longest common prefix, as (slot, length); see ``PrefixIndex.longest``."""
        return self._index.longest(wanted)

    def vacant(self) -> int | None:
        """The slot to give away next: an empty one, the lowest or that nearest to the owned ones, else the one unused
        for longest. Either keeps few slots between those that decode.
        """
        owned = [slot for slot, owner in enumerate(self.owners) if owner is not None] if self._keep_near else []
        low, high = (owned[0], owned[-1]) if owned else (0, 0)

        def cost(slot: int) -> tuple[int, int, int]:
            distance = max(low - slot, slot - high, 0)
            return (self._last_used[slot], 0, slot) if self.rows[slot] else (-1, distance, slot)

        return min((slot for slot, owner in enumerate(self.owners) if owner is None), key=cost, default=None)

    def lowest_unused(self, stop: int) -> int | None:
        """The unowned slot below ``stop`` that was unused for longest, None if all are owned."""
        free = (slot for slot in range(stop) if self.owners[slot] is None)
        return min(free, key=lambda slot: (bool(self.rows[slot]), self._last_used[slot], slot), default=None)

    def to_empty(self) -> int | None:
        """The slot that ``emptied`` empties."""
        slot = self.vacant()
        return None if slot is not None and self.rows[slot] and self.owners.count(None) == 1 else slot

    def emptied(self) -> int | None:
        """The slot of ``vacant`` without the rows that it retained; None if they are the only ones retained."""
        slot = self.to_empty()
        if slot is not None and self.rows[slot]:
            self.offer(slot, NOTHING)
        return slot
