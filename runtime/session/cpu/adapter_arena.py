"""Host memory for the adapters of all slots: per graph input one block, every slot at a fixed stride, as the cache.

So a decode call over adjacent slots binds their matrices by address, and nothing is gathered per step; what a slot
holds is copied once, when it gets another adapter. Pages are taken from the system when first written. A step reads
what it is bound to, which is more than anything else that adapters cost: rows that all have the same adapter are bound
to one row's matrices where that changes no bit, and what no row's adapter changes to nothing. Knows shapes and
addresses; knows no sequence.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Layout:
    """What decides the shapes that a call is bound to: the inputs that some row's adapter changes, and whether all rows
    have the same one."""

    changed: frozenset[str]
    is_one: bool


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
        self._shared = set(_shared_inputs(room))
        self.version = 0
        """Another one after every choice that changed something: what is ready at this one stays so."""
        self._wanted: list[Adapter | None] = [None] * num_slots
        self._written: list[Adapter | None] = [None] * num_slots

    def set(self, slot: int, adapter: Adapter | None) -> None:
        """Choose a slot's adapter. Its matrices are copied when a call needs them."""
        if self._wanted[slot] is not adapter:
            self._wanted[slot] = adapter
            self.version += 1

    def ready(self, first_slot: int, num_rows: int) -> Layout:
        """How a call over adjacent slots is to be bound, whose memory is in line with what was chosen for them."""
        rows = self._wanted[first_slot : first_slot + num_rows]
        changed = frozenset(name for one in rows if one is not None for name in one.matrices)
        if changed:
            self._write(first_slot, num_rows)
        return Layout(changed, all(one is rows[0] for one in rows))

    def bind(self, binding: ort.IOBinding, first_slot: int, num_rows: int, layout: Layout) -> None:
        """Bind the memory of adjacent slots as a call's inputs, and matrices of no columns, which add nothing, where no
        slot's adapter changes anything."""
        for name, (_, *matrix) in input_shapes(self._room):
            block = self._blocks[name]
            if name not in layout.changed:
                binding.bind_input(name, _DEVICE, 0, np.float32, (num_rows, 0, *matrix), block.ctypes.data)
                continue
            bound = block[first_slot : first_slot + (1 if layout.is_one and name in self._shared else num_rows)]
            binding.bind_input(name, _DEVICE, 0, np.float32, bound.shape, bound.ctypes.data)

    def _write(self, first_slot: int, num_rows: int) -> None:
        """Bring the memory of adjacent slots in line with what was chosen for them."""
        for slot in range(first_slot, first_slot + num_rows):
            adapter = self._wanted[slot]
            if self._written[slot] is adapter:
                continue
            for name, block in self._blocks.items():
                block[slot] = 0.0 if adapter is None else adapter.matrices.get(name, 0.0)
            self._written[slot] = adapter


def _shared_inputs(room: AdapterRoom) -> Iterator[str]:
    """Inputs that a call may be given once for all its rows, without a change of a bit.

    Of a projection with one block ONNX Runtime would make one product of all rows in place of one each, which adds in
    another order; and the last layer selects among the matrices of all rows.
    """
    for layer in range(room.num_layers - 1):
        for projection in room.projections:
            if room.blocks(projection) > 1:
                yield from graph_io.adapter_names(layer, projection.name)
