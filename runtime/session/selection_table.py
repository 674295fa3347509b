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


class SelectionTable:
    """``columns`` by name [num_slots] or [num_slots, 32]; ``masks`` of the slots that have one, uint32 [ceil(V/32)]."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.columns: dict[str, NDArray[Any]] = {
            name: np.full(io.row_shape(width, num_slots), io.neutral(name, vocab_size), dtype)
            for name, (dtype, width) in io.RULES.items()
        }
        self.masks: dict[int, MaskArray] = {}
