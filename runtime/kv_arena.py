"""Host memory for the KV cache: one block per layer and kind, every slot at a fixed stride, never moved.

Knows shapes and addresses; knows neither sequences nor graphs. Pages are taken from the system when first written,
so an arena costs what its slots hold, and the budget in ``runtime.kv_budget`` bounds what they may come to hold.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import DTypeLike, NDArray

from runtime.manifest import ModelShape

_PAGE_ALIGN_BYTES = 2 * 2**20
"""Blocks start at multiples of a huge page, so that the kernel may back them with huge pages."""


class KVArena:
    """KV cache [slots, H, S, D] for each of L layers and {key, value}."""

    def __init__(self, shape: ModelShape, num_slots: int, capacity: int, dtype: DTypeLike) -> None:
        self.shape = shape
        self.num_slots = num_slots
        self.capacity = capacity
        self.dtype = np.dtype(dtype)
        slot_bytes = shape.num_kv_heads * capacity * shape.head_dim * self.dtype.itemsize
        block_bytes = -(-slot_bytes * num_slots // _PAGE_ALIGN_BYTES) * _PAGE_ALIGN_BYTES
        num_blocks = 2 * shape.num_layers
        self._memory = mmap.mmap(-1, block_bytes * num_blocks + _PAGE_ALIGN_BYTES)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(self._memory, dtype=np.uint8)
        offset = -raw.ctypes.data % _PAGE_ALIGN_BYTES
        block_shape = (num_slots, shape.num_kv_heads, capacity, shape.head_dim)
        self.blocks: list[NDArray[np.generic]] = []
        for block in range(num_blocks):
            begin = offset + block * block_bytes
            self.blocks.append(raw[begin : begin + slot_bytes * num_slots].view(self.dtype).reshape(block_shape))
        self._scratch = np.empty((shape.num_kv_heads, capacity, shape.head_dim), self.dtype)

    def address(self, block: int, slot: int) -> int:
        """Address of a slot's first row in a block; block ``2 * layer`` holds keys, ``2 * layer + 1`` values."""
        return int(self.blocks[block][slot:].ctypes.data)

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first ``num_tokens`` rows of every head from one slot to another."""
        for block in self.blocks:
            block[target, :, :num_tokens] = block[source, :, :num_tokens]

    def swap_slots(self, first: int, second: int, num_tokens: int) -> None:
        """Exchange the first ``num_tokens`` rows of every head of two slots."""
        scratch = self._scratch[:, :num_tokens]
        for block in self.blocks:
            scratch[...] = block[first, :, :num_tokens]
            block[first, :, :num_tokens] = block[second, :, :num_tokens]
            block[second, :, :num_tokens] = scratch
