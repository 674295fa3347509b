"""A session around another one, which it changes nothing about: for tests that override what they watch or spoil.

Tokens are drawn on the host, from the logits that ``prefill`` and ``decode`` give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.session.selected import Selected, from_logits
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray, Int64Array, Session, SessionInfo, decode_logits


@dataclass
class AroundSession:
    """``runtime.session.session.Session``, each call handed on to ``inner``."""

    inner: Session

    @property
    def info(self) -> SessionInfo:
        return self.inner.info

    @property
    def run_ns(self) -> int:
        return self.inner.run_ns

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """One call of ``decode`` per run of adjacent slots, so that what a test makes of that one counts here."""
        cuts = np.flatnonzero(np.diff(slots) != 1) + 1
        if not len(cuts):
            return from_logits(self.decode(int(slots[0]), token_ids, positions))
        runs = zip(*(np.split(array, cuts) for array in (slots, token_ids, positions)), strict=True)
        return from_logits(np.concatenate([self.decode(int(run[0]), *rest).copy() for run, *rest in runs]))

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        return from_logits(self.prefill(slot, token_ids, start, 1))

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        return self.inner.prefill(slot, token_ids, start, num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        return decode_logits(self.inner, first_slot, token_ids, positions)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        self.inner.copy_slot(source, target, num_tokens, start)

    def close(self) -> None:
        self.inner.close()
