"""How far each slot is written, so that rows of a call that nobody asked for write where nothing valid is.

A kernel that wants slots side by side computes those in between, too: they write one cache row each. Written after the
slot's last row it changes nothing that counts, and whatever comes next there writes over it. Knows numbers only.
"""

from __future__ import annotations

import numpy as np

from runtime.session.session import Int64Array


class SlotRows:
    """Rows of each of ``num_slots`` slots of ``capacity`` rows that calls have written and that may still count."""

    def __init__(self, num_slots: int, capacity: int) -> None:
        # A full slot's last row is the one that may be lost: no prompt that fits the slot can go on after it.
        self._last = capacity - 1
        self._written = np.zeros(num_slots, np.int64)

    def wrote(self, slot: int, end: int) -> None:
        """Note that a slot holds rows up to ``end``, and none beyond."""
        self._written[slot] = end

    def wrote_each(self, slots: Int64Array, positions: Int64Array) -> None:
        """Note that one row was written at ``positions`` [B] of ``slots`` [B]."""
        self._written[slots] = positions + 1

    def free_rows(self, first: int, stop: int) -> Int64Array:
        """Where a row may be written in each of the slots ``[first, stop)``, int64."""
        return np.minimum(self._written[first:stop], self._last)
