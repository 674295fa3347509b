"""What one engine step does, decided before anything runs. Plain values; knows no arrays and no model.

Order of execution: ``copies``, then the decode call, then ``prefills`` in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runtime.engine.sequence import Sequence
from runtime.engine.slot_table import SlotMove


@dataclass(frozen=True, slots=True)
class SlotCopy:
    """Copy the cache rows ``start`` to ``num_tokens`` from one slot to another.

    ``cause`` is the sequence whose prompt begins with the rows, or the move that they are a part of.
    """

    source: int
    target: int
    num_tokens: int
    start: int
    cause: Sequence | SlotMove


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Compute ``token_ids[start:stop]`` of a sequence in its slot; the last chunk yields the first token's logits."""

    sequence: Sequence
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        """True when the prompt is complete after this chunk."""
        return self.stop == len(self.sequence.token_ids)

    def pieces(self, most: int) -> Iterator[tuple[int, int]]:
        """The chunk as (start, stop) of at most ``most`` > 2 tokens each; none has one token unless the chunk has."""
        start = self.start
        while (left := self.stop - start) > 0:
            size = min(left, most)
            size -= left - size == 1
            yield start, start + size
            start += size


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. ``decode`` are the sequences that get a token each, by their slots, ascending."""

    copies: tuple[SlotCopy, ...]
    decode: tuple[Sequence, ...]
    prefills: tuple[PrefillChunk, ...]

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to run."""
        return not self.decode and not self.prefills and not self.copies
