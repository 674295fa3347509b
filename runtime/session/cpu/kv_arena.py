"""Host memory for the KV cache: one block per layer and kind, every slot at a fixed stride, never moved.

Knows shapes and addresses; knows neither sequences nor graphs. Pages are taken from the system when first written,
so an arena costs what its slots hold, and ``runtime.session.kv_budget`` bounds what they may come to hold. They are
small ones, unlike the weights': on huge pages a short answer would take the memory of several slots, for 4 % of a
step with 16 sequences of 900 tokens and nothing measurable below.
"""

from __future__ import annotations

import math
import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.package.manifest import ModelShape


class KVArena:
    """KV cache [slots, H, S, D] for each of L layers and {key, value}."""

    def __init__(self, shape: ModelShape, num_slots: int, capacity: int, dtype: DTypeLike) -> None:
        self.shape = shape
        self.num_slots = num_slots
        self.capacity = capacity
        self.dtype = np.dtype(dtype)
        block_shape = (num_slots, shape.num_kv_heads, capacity, shape.head_dim)
        num_blocks = 2 * shape.num_layers
        # Shared anonymous memory: numpy would ask for huge pages.
        self._memory = mmap.mmap(-1, num_blocks * math.prod(block_shape) * self.dtype.itemsize)
        cache = np.frombuffer(self._memory, self.dtype).reshape(num_blocks, *block_shape)
        self.blocks: list[NDArray[np.generic]] = list(cache)

    def address(self, block: int, slot: int) -> int:
        """Address of a slot's first row in a block; blocks are in the order of ``graph_io.cache_names``."""
        return int(self.blocks[block][slot:].ctypes.data)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """Copy the rows ``start`` to ``num_tokens`` of every head from one slot to another."""
        for block in self.blocks:
            block[target, :, start:num_tokens] = block[source, :, start:num_tokens]
