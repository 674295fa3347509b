"""Which slots' rows move, so that a decode call covers few slots beside those that decode. Pure bookkeeping.

The rules are the scheduler's (its rule 5); what is moved is copied within a step's budget. Knows slots, no prompts.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.engine.decode_span import PATIENCE_STEPS, DecodeSpan
from runtime.engine.slot_table import SlotMove, SlotTable
from runtime.engine.step_plan import SlotCopy
from runtime.engine.token_prefix import NOTHING


class CopyBudget:
    """The copies of one step and how many rows more it may copy."""

    def __init__(self, budget_rows: int) -> None:
        self.planned: list[SlotCopy] = []
        self.left = budget_rows

    @property
    def has_room(self) -> bool:
        """Whether another row may be copied."""
        return self.left > 0

    def take(self, num_rows: int) -> int:
        """How many of ``num_rows`` fit; they are used up."""
        fitting = min(num_rows, self.left)
        self.left -= fitting
        return fitting


class SlotMoves:
    """The moves over one table of slots."""

    def __init__(self, slots: SlotTable, span: DecodeSpan) -> None:
        self._slots = slots
        self._span = span
        self._may_move = True
        self._steps_too_large = 0

    def stop(self) -> None:
        """Move nothing until ``go_on``: a move failed, and would again."""
        self._may_move = False

    def go_on(self) -> None:
        """A sequence has ended, which changes what could move."""
        self._may_move = True

    def lowered(self, vacant: int, source: int, copies: CopyBudget) -> int:
        """The slot to give away in the place of ``vacant``: a lower one, whose rows ``vacant`` takes, where that pays.

        ``source`` is needed where it is.
        """
        if not self._span.buckets or not self._may_move:
            return vacant
        stop = self._span.room([slot for slot, owner in enumerate(self._slots.owners) if owner is not None])
        low = self._slots.lowest_unused(stop)
        if low is None or vacant < stop or low == source or len(self._slots.rows[low]) >= copies.left:
            return vacant
        self._slots.offer(vacant, NOTHING)
        move = self._slots.moving(low, vacant)
        self._copy_moving(move, copies)
        return low

    def is_due(self, decoding: list[int]) -> bool:
        """Whether ``together`` would move anything in a step without other copies, which this step is not."""
        self._steps_too_large += 1
        if not self._may_move:
            return False
        _, holes = self._end_and_holes(decoding)
        return bool(holes) and self._slots.to_empty() is not None

    def together(self, decoding: Callable[[], list[int]], copies: CopyBudget) -> None:
        """Plan what brings the slots that are ``decoding`` closer together, as far as a step may copy."""
        self._steps_too_large += 1
        while self._may_move and copies.has_room and (move := self._next_move(decoding())) is not None:
            self._copy_moving(move, copies)

    def _copy_moving(self, move: SlotMove, copies: CopyBudget) -> None:
        start, num_rows = move.num_copied, self._slots.num_rows(move.source)
        move.num_copied += copies.take(num_rows - start)
        if move.num_copied > start:
            copies.planned.append(SlotCopy(move.source, move.target, move.num_copied, start, move))
        if move.num_copied == num_rows:
            self._slots.complete(move)

    def _next_move(self, decoding: list[int]) -> SlotMove | None:
        """What makes a decode call smaller, or empties a slot for that; None where nothing does, or should yet."""
        end, holes = self._end_and_holes(decoding)
        spare = self._slots.emptied() if holes else None
        if spare is None:
            return None
        empty = [slot for slot in holes if not self._slots.rows[slot]]
        return self._slots.moving(end, empty[0]) if empty else self._slots.moving(holes[0], spare)

    def _end_and_holes(self, decoding: list[int]) -> tuple[int, list[int]]:
        """The slot whose sequence is to move, and the unowned slots that it may move to, the best one first."""
        free = [slot for slot, owner in enumerate(self._slots.owners) if owner is None]
        if self._span.keeps_near:
            low, high = min(decoding, default=0), max(decoding, default=0)
            end = min(low, high, key=self._slots.num_rows)
            holes = [slot for slot in free if low < slot < high]
            return end, holes[::-1] if end == low else holes  # the nearer holes are then outside of the range
        size = self._span.smaller(decoding, free) if self._span.buckets else None
        if size is None:
            self._steps_too_large = 0
            return -1, []
        if self._steps_too_large < PATIENCE_STEPS:
            return -1, []
        return max(decoding), [slot for slot in free if slot < size]
