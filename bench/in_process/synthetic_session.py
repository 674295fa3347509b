"""A session of zero compute: rows of logits made beforehand, so that only the engine's own work takes time.

Rows are peaked as a model's are: a few tokens stand out, the rest is a wide bell. Knows no package and no request.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from runtime.session.session import FloatArray, Int64Array, SessionInfo

_SEED = 5
_NUM_KINDS = 16
"""Distinct rows: beyond as many, rows repeat."""
_BELL = 2.2
_NUM_LIKELY = 48


def synthetic_rows(vocab_size: int) -> FloatArray:
    """Logits [16, V], the same ones every time.

    At temperature 0.8 the likeliest token weighs from a fifth to five sixths of its row.
    """
    generator = np.random.default_rng(_SEED)
    rows = generator.standard_normal((_NUM_KINDS, vocab_size), np.float32) * np.float32(_BELL)
    num_likely = min(_NUM_LIKELY, vocab_size)
    for row, best in zip(rows, np.linspace(14.0, 24.0, _NUM_KINDS), strict=True):
        steps = generator.exponential(0.35, num_likely)
        row[generator.choice(vocab_size, num_likely, replace=False)] = best - np.cumsum(steps) + steps[0]
    return rows


class SyntheticSession:
    """``runtime.session.session.Session`` without a model.

    With ``restores`` each call writes its rows anew, because some ways of drawing write to them; that counts as time
    inside the backend, by ``clock`` in nanoseconds. Without, what is lent is what was made, and nothing is copied.
    """

    def __init__(
        self, num_slots: int, vocab_size: int, max_model_len: int, clock: Callable[[], int], *, restores: bool
    ) -> None:
        self._rows = synthetic_rows(vocab_size)
        self._lent = np.resize(self._rows, (num_slots, vocab_size))
        self._clock = clock
        self._restores = restores
        self._num_calls = 0
        self._run_ns = 0
        self._info = SessionInfo("synthetic", num_slots, max_model_len, vocab_size, 1, batch_invariant=True)

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds spent on restoring rows."""
        return self._run_ns

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``; the logits are any."""
        del slot, token_ids, start
        return self._given(num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """See ``Session.decode``; the logits are any."""
        del first_slot, positions
        return self._given(len(token_ids))

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """There is no cache to copy."""

    def close(self) -> None:
        """Nothing is held."""

    def _given(self, num_rows: int) -> FloatArray:
        lent = self._lent[:num_rows]
        if self._restores:
            begin = self._clock()
            for place, row in enumerate(lent, self._num_calls):
                row[:] = self._rows[place % _NUM_KINDS]
            self._num_calls += 1
            self._run_ns += self._clock() - begin
        return lent
