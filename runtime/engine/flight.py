"""A decode call that was launched and not waited for: which row is whose, and which of them count in the end.

A row counts if its sequence still lives and goes on with the very token that the row was computed from. Everything else
is void: a row of a sequence that has ended meanwhile, and one whose token was drawn anew by the host. Nobody is told of
a void row, no number of a seed is used up for it, and what it wrote lies after all that its slot offers. Values only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.engine.sequence import Phase, Sequence
from runtime.sampling.host_draw import DrawnBehind
from runtime.sampling.sampler import SamplerState
from runtime.session.selected import Chosen
from runtime.session.session import FROM_DEVICE, Int64Array


@dataclass(frozen=True, slots=True)
class NextRow:
    """What a sequence's next row is computed from: a token at a position of its slot, ``unknown`` tokens before which
    the host knows its own last one. FROM_DEVICE is a token that is still being chosen."""

    sequence: Sequence
    token_id: int
    position: int
    unknown: int


def known(sequence: Sequence) -> NextRow:
    """The next row of a sequence none of whose rows is on its way."""
    return NextRow(sequence, sequence.token_ids[-1], sequence.num_computed, 0)


def unknown(sequence: Sequence) -> NextRow:
    """The row after the one that is on its way."""
    return NextRow(sequence, FROM_DEVICE, sequence.num_computed + 1, 1)


@dataclass(frozen=True, slots=True)
class Flight:
    """A launched call. ``states`` are the samplers by whose rules its tokens are chosen before it lands, None where the
    host draws once it has."""

    rows: list[NextRow]
    states: list[SamplerState | None]
    token_ids: list[int]
    """What each row was computed from, as far as that is known by now."""
    draw: DrawnBehind | None = None
    """What draws the tokens where the session does not choose them; None as long as the call was not launched."""

    @classmethod
    def of(cls, rows: list[NextRow], states: list[SamplerState | None]) -> Flight:
        """A call of ``rows``."""
        return cls(rows, states, [row.token_id for row in rows])

    def arrays(self) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Slots, token ids and positions, [B] each."""
        columns = zip(*((row.sequence.slot, row.token_id, row.position) for row in self.rows), strict=True)
        slots, token_ids, positions = (np.array(values, np.int64) for values in columns)
        return slots, token_ids, positions

    def learn(self, before: Flight, chosen: Chosen | None) -> None:
        """Note what this one's rows were computed from: what the call ``before`` it drew, or the session chose."""
        drawn = [] if chosen is None else chosen.tokens.tolist()
        if before.draw is not None:
            drawn = before.draw.token_ids
        tokens = {id(row.sequence): token for row, token in zip(before.rows, drawn, strict=True)}
        for place, row in enumerate(self.rows):
            if row.token_id == FROM_DEVICE:
                self.token_ids[place] = tokens[id(row.sequence)]

    def places(self) -> list[int]:
        """The rows that count, once all calls before this one have landed."""
        return [place for place, row in enumerate(self.rows) if self._counts(place, row.sequence)]

    def sequences(self) -> list[Sequence]:
        """The sequences of the rows that count."""
        return [self.rows[place].sequence for place in self.places()]

    def num_void(self) -> int:
        """Rows of sequences that live and whose next token they do not give."""
        return sum(
            row.sequence.phase is not Phase.FINISHED and not self._counts(place, row.sequence)
            for place, row in enumerate(self.rows)
        )

    def _counts(self, place: int, sequence: Sequence) -> bool:
        return (
            sequence.phase is not Phase.FINISHED
            and sequence.num_computed == self.rows[place].position
            and sequence.token_ids[-1] == self.token_ids[place]
        )
