"""What a session's call gives: tokens, as far as they could be chosen, and logits on request. Values; knows no device.

A call's rows are known by their places: 0 to B - 1, in the order in which they were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.package import selection_io

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A selection head's outputs (``runtime.package.selection_io``) for B rows.

    ``tokens``, ``settled`` and ``logprobs`` [B], ``top_ids`` and ``top_logprobs`` [B, 20]. Read as lists where each row
    is looked at: an element of an array costs ten times as much.
    """

    tokens: NDArray[np.int32]
    settled: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float32]

    def rows(self, places: NDArray[np.int64] | slice) -> Chosen:
        """Those of some rows, in that order."""
        return Chosen(
            self.tokens[places],
            self.settled[places],
            self.logprobs[places],
            self.top_ids[places],
            self.top_logprobs[places],
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """The answer of one call; valid until the session's next call.

    ``chosen`` is None where the session chooses nothing. ``logits`` gives the rows at some places, ascending, float32
    [len(places), V], writable by the caller; it may raise what the session's calls raise.
    """

    logits: Callable[[Sequence[int]], Logits]
    chosen: Chosen | None = None

    def at(self, places: Sequence[int]) -> Selected:
        """The answer of some rows alone, ascending, whose places are then 0, 1, 2..."""
        chosen = None if self.chosen is None else self.chosen.rows(np.array(places, np.int64))
        return Selected(lambda rows: self.logits([places[row] for row in rows]), chosen)


def from_logits(rows: Logits) -> Selected:
    """The answer of a session that chooses nothing and has its logits [B, V] in host memory."""

    def logits(places: Sequence[int]) -> Logits:
        if len(places) == len(rows):
            return rows
        if places and places[-1] - places[0] == len(places) - 1:
            return rows[places[0] : places[-1] + 1]
        return rows[list(places)]

    return Selected(logits)


def is_settled(settled: int, *, top: bool) -> bool:
    """Whether a row's token is to be taken, given its ``settled``; ``top``: its log-probabilities too."""
    needed = selection_io.TOKEN_SETTLED | (selection_io.TOP_SETTLED if top else 0)
    return settled & needed == needed
