"""Host memory for the adapters of all slots: per graph input one block, every slot at a fixed stride, as the cache.

So a decode call over adjacent slots binds their matrices by address, and nothing is gathered per step; what a slot
holds is copied once, when it gets another adapter. Pages are taken from the system when first written. Knows shapes
and addresses; knows no sequence.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.adapter import Adapter
from runtime.package import graph_io
from runtime.package.adapter_room import COLUMNS, AdapterRoom

_DEVICE = "cpu"


def input_shapes(room: AdapterRoom) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each of the graph's inputs for adapters, and one row's shape."""
    for layer in range(room.num_layers):
        for projection in room.projections:
            a, b = graph_io.adapter_names(layer, projection.name)
            blocks = room.blocks(projection)
            yield a, (blocks, projection.inputs, COLUMNS)
            yield b, (blocks, COLUMNS, projection.outputs)


class AdapterArena:
    """Which adapter each of ``num_slots`` slots computes with, and the matrices."""

    def __init__(self, room: AdapterRoom, num_slots: int) -> None:
        self._room = room
        self._memory = mmap.mmap(-1, num_slots * room.adapter_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        values = np.frombuffer(self._memory, np.float32)
        self._blocks: dict[str, NDArray[np.float32]] = {}
        start = 0
        for name, shape in input_shapes(room):
            size = num_slots * int(np.prod(shape))
            self._blocks[name] = values[start : start + size].reshape(num_slots, *shape)
            start += size
        self._wanted: list[Adapter | None] = [None] * num_slots
        self._written: list[Adapter | None] = [None] * num_slots

    def set(self, slot: int, adapter: Adapter | None) -> None:
        """Choose a slot's adapter. Its matrices are copied when a call needs them."""
        self._wanted[slot] = adapter

    def is_empty(self, first_slot: int, num_rows: int) -> bool:
        """Whether none of adjacent slots has an adapter."""
        return not any(self._wanted[first_slot : first_slot + num_rows])

    def write(self, first_slot: int, num_rows: int) -> None:
        """Bring the memory of adjacent slots in line with what was chosen for them."""
        for slot in range(first_slot, first_slot + num_rows):
            adapter = self._wanted[slot]
            if self._written[slot] is adapter:
                continue
            for name, block in self._blocks.items():
                block[slot] = 0.0 if adapter is None else adapter.matrices.get(name, 0.0)
            self._written[slot] = adapter

    def bind(self, binding: ort.IOBinding, first_slot: int, num_rows: int) -> None:
        """Bind the memory of adjacent slots as a call's inputs."""
        for name, block in self._blocks.items():
            rows = block[first_slot : first_slot + num_rows]
            binding.bind_input(name, _DEVICE, 0, np.float32, rows.shape, rows.ctypes.data)

    def bind_nothing(self, binding: ort.IOBinding, num_rows: int) -> None:
        """Bind matrices of no columns, which add nothing."""
        address = next(iter(self._blocks.values())).ctypes.data  # of which no byte is read
        for name, (_, *shape) in input_shapes(self._room):
            binding.bind_input(name, _DEVICE, 0, np.float32, (num_rows, 0, *shape), address)
