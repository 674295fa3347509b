"""Which tokens a choice has seen, and how often it drew each: arrays that grow by one place per new token.

A penalty needs them at every step, so nothing is made anew there. Knows ids and counts; knows no penalty.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from runtime.session.session import FloatArray

_SPARE = 64


class SeenTokens:
    """Distinct tokens in the order in which they were first seen, each with how often it was drawn."""

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(token_ids))}
        size = len(self._places)
        self._ids = np.empty(size + _SPARE, np.int64)
        self._ids[:size] = np.fromiter(self._places, np.int64, size)
        self._counts = np.zeros(size + _SPARE, np.float32)

    def __len__(self) -> int:
        return len(self._places)

    def draw(self, token_id: int) -> None:
        """Count a drawn token. The work does not depend on how many there are, but where the arrays are full."""
        place = self._places.setdefault(token_id, len(self._places))
        if place == len(self._ids):
            self._ids, self._counts = (np.concatenate([array, np.zeros_like(array)]) for array in self._arrays())
        self._ids[place] = token_id
        self._counts[place] += 1

    @property
    def ids(self) -> NDArray[np.int64]:
        """The tokens [N], distinct; valid until the next ``draw``."""
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> FloatArray:
        """How often each of them was drawn [N]."""
        return self._counts[: len(self._places)]

    def _arrays(self) -> tuple[NDArray[np.int64], FloatArray]:
        return self._ids, self._counts
