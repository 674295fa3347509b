"""A scripted session that takes adapters: with one, the model says in capitals what it would say in small letters.

It fails loudly where rows of one adapter are read with another, which a real cache would silently mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.adapter import Adapter
from runtime.session.session import FloatArray, Int64Array
from tests.fakes import ScriptedSession

_SMALL, _CAPITALS = slice(ord("a"), ord("z") + 1), slice(ord("A"), ord("Z") + 1)


def named_adapter(name: str) -> Adapter:
    """An adapter of no matrices."""
    return Adapter(name, "digest of " + name, {})


@dataclass
class AdaptingSession(ScriptedSession):
    """``adapters`` are those of the slots now, ``made_with`` has the digest that each row of a slot was made with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adapters: list[Adapter | None] = [None] * self.num_slots
        self.made_with: list[list[str]] = [[] for _ in range(self.num_slots)]

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        self.adapters[slot] = adapter

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        logits = super().prefill(slot, token_ids, start, num_logits)
        self._made(slot, start, len(token_ids))
        return self._said(slot, logits)

    def _decoded(self, slots: tuple[int, ...], token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        logits = super()._decoded(slots, token_ids, positions)
        for row, (slot, position) in enumerate(zip(slots, positions.tolist(), strict=True)):
            logits[row : row + 1] = self._said(slot, logits[row : row + 1])
            self._made(slot, position, 1)
        return logits

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        super().copy_slot(source, target, num_tokens, start)
        self.made_with[target][start:] = self.made_with[source][start:num_tokens]

    def _made(self, slot: int, start: int, count: int) -> None:
        adapter = self.adapters[slot]
        digest, rows = "" if adapter is None else adapter.digest, self.made_with[slot]
        rows[start:] = [digest] * count
        if count > 1 and set(rows) != {digest}:  # an idle row of a decode call may hold anything
            raise ValueError(f"slot {slot} is read with {digest!r}, its rows were made with {sorted(set(rows))}")

    def _said(self, slot: int, logits: FloatArray) -> FloatArray:
        if self.adapters[slot] is not None:
            capitals = logits[:, _CAPITALS].copy()
            logits[:, _CAPITALS] = np.maximum(logits[:, _SMALL], capitals)
            logits[:, _SMALL] = 0.0
        return logits
