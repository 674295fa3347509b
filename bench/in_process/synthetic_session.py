"""Sessions of zero compute, so that only the engine's own work takes time.

One gives rows of logits made beforehand, peaked as a model's are: a few tokens stand out, the rest is a wide bell. The
other gives tokens made beforehand, as a session on a GPU does that chooses them there. Know no package and no request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from runtime.package import selection_io
from runtime.session.device import Bytes
from runtime.session.gpu.runner import decode_buckets
from runtime.session.gpu.selection_staging import SelectionStaging
from runtime.session.selected import Chosen, Selected, from_logits
from runtime.session.selection_table import SelectionTable
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
        self._info = SessionInfo(
            "synthetic", num_slots, max_model_len, vocab_size, 1, batch_invariant=True, any_slots=True
        )

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds spent on restoring rows."""
        return self._run_ns

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``; the host draws."""
        del token_ids, positions, selection
        return from_logits(self._given(len(slots)))

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``; the host draws."""
        del selection
        return from_logits(self.prefill(slot, token_ids, start, 1))

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``; the logits are any."""
        del slot, token_ids, start
        return self._given(num_logits)

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


class ChoosingSession(SyntheticSession):
    """As one on a GPU: rules are written to the memory that would be uploaded, and any tokens come back, all settled.

    What CUDA takes to queue a copy and a recorded step is not in it.
    """

    def __init__(self, num_slots: int, vocab_size: int, max_model_len: int, clock: Callable[[], int]) -> None:
        super().__init__(num_slots, vocab_size, max_model_len, clock, restores=False)
        self._staging = SelectionStaging(_NoDevice(), num_slots, vocab_size)
        generator = np.random.default_rng(_SEED)
        shape = (num_slots, selection_io.MAX_TOP_LOGPROBS)
        settled = selection_io.TOKEN_SETTLED + selection_io.TOP_SETTLED
        self._made = Chosen(
            tokens=generator.integers(0, vocab_size, num_slots, np.int32),
            settled=np.full(num_slots, settled, np.int32),
            logprobs=np.full(num_slots, -1.0, np.float32),
            top_ids=generator.integers(0, vocab_size, shape, np.int32),
            top_logprobs=np.full(shape, -2.0, np.float32),
        )
        self._info = replace(self._info, any_slots=False, selects=True, decode_buckets=decode_buckets(num_slots))

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``."""
        del token_ids, positions
        size = next(size for size in self._info.decode_buckets if size > slots[-1])
        if selection is not None:
            self._staging.load(selection, slice(0, size), slots.tolist())
        return Selected(lambda places: self._given(len(places)), self._made.rows(slots))


class _NoDevice:
    """``runtime.session.device.DeviceMemory`` whose copies go nowhere."""

    def allocate(self, num_bytes: int) -> int:
        del num_bytes
        return 0

    def pinned(self, num_bytes: int) -> Bytes:
        memory: NDArray[np.uint8] = np.zeros(-(-num_bytes // 8) * 8, np.uint8)
        return memory[:num_bytes]

    def upload(self, target: int, source: Bytes) -> None:
        """Nothing is copied."""

    def download(self, target: Bytes, source: int) -> None:
        """Nothing is copied."""
