"""The rules by which a session chooses tokens: a row per slot, in the terms of ``runtime.package.selection_io``.

The engine writes a slot's row before a call, the session reads it during the call. Arrays and masks only; knows neither
requests nor devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.package import selection_io as io
from runtime.token_mask import MaskArray

_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)

COLUMNS: dict[str, tuple[np.dtype[Any], int]] = {
    io.INVERSE_TEMPERATURE: (_F32, 1),
    io.TOP_K: (_I32, 1),
    io.TOP_P: (_F32, 1),
    io.MIN_P: (_F32, 1),
    io.UNIFORM: (_F32, 1),
    io.EDIT_IDS: (_I32, io.MAX_EDITS),
    io.EDIT_BIAS: (_F32, io.MAX_EDITS),
    io.EDIT_PENALTY: (_F32, io.MAX_EDITS),
    io.EDIT_SUBTRACT: (_F32, io.MAX_EDITS),
}
"""A head's inputs that are a row's rules: dtype, and numbers per row. The mask is apart: few rows have one."""


def row_shape(name: str, num_rows: int) -> tuple[int, ...]:
    """Shape of an input of ``COLUMNS`` for so many rows: [B], or [B, 32] of an edit's."""
    width = COLUMNS[name][1]
    return (num_rows,) if width == 1 else (num_rows, width)


def neutral(name: str, vocab_size: int) -> float:
    """The value of an input of ``COLUMNS`` that changes nothing: the likeliest of all tokens, no edit."""
    special = {io.INVERSE_TEMPERATURE: 1.0, io.TOP_K: 1, io.TOP_P: 1.0, io.EDIT_IDS: vocab_size, io.EDIT_PENALTY: 1.0}
    return special.get(name, 0.0)


class SelectionTable:
    """``columns`` by name [num_slots] or [num_slots, 32]; ``masks`` of the slots that have one, uint32 [ceil(V/32)]."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.columns: dict[str, NDArray[Any]] = {
            name: np.full(row_shape(name, num_slots), neutral(name, vocab_size), dtype)
            for name, (dtype, _) in COLUMNS.items()
        }
        self.masks: dict[int, MaskArray] = {}
