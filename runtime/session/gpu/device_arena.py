"""Device memory for the KV cache: one block per layer and kind, every slot at a fixed stride, never moved.

The device's counterpart of ``runtime.session.cpu.kv_arena``: knows shapes and addresses, no sequences and no graphs.
"""

from __future__ import annotations

from runtime.errors import DeviceError
from runtime.package.manifest import ModelShape
from runtime.session.device import ALIGNMENT_BYTES, Device


class DeviceArena:
    """KV cache [slots, H, S, D] for each of L layers and {key, value}, in one allocation."""

    def __init__(self, device: Device, shape: ModelShape, num_slots: int, capacity: int, itemsize: int) -> None:
        self._device = device
        self._num_heads = shape.num_kv_heads
        self._num_blocks = 2 * shape.num_layers
        self._row_bytes = shape.head_dim * itemsize
        self._head_bytes = capacity * self._row_bytes
        self._slot_bytes = shape.num_kv_heads * self._head_bytes
        if self._slot_bytes % ALIGNMENT_BYTES:
            raise DeviceError(
                f"a cache slot has {self._slot_bytes} bytes per layer, which is no multiple of {ALIGNMENT_BYTES}; "
                "choose a --max-model-len that is a multiple of 64"
            )
        self._block_bytes = num_slots * self._slot_bytes
        self.num_bytes = self._num_blocks * self._block_bytes
        self._base = device.allocate(self.num_bytes)

    def address(self, block: int, slot: int) -> int:
        """Address of a slot's first row in a block; blocks are in the order of ``graph_io.cache_names``."""
        return self._base + block * self._block_bytes + slot * self._slot_bytes

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """Queue a copy of the rows ``start`` to ``num_tokens`` of every head from one slot to another."""
        offset, num_bytes = start * self._row_bytes, (num_tokens - start) * self._row_bytes
        for block in range(self._num_blocks):
            to, given = self.address(block, target) + offset, self.address(block, source) + offset
            self._device.copy_rows(to, given, num_bytes, self._head_bytes, self._num_heads)
