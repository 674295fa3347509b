"""One call of the graph, bound by address to its slots' rows of the cache, and the logits' memory, which calls share.

Past and present of a slot are bound to the same address, which makes GroupQueryAttention append in place. Bindings are
built once and reused: setting up 120 of them costs 540 us, running with bound ones 28 us (measured while designing).
Runs nothing, and knows no batch.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.package import graph_io
from runtime.session.cpu.adapter_arena import AdapterArena, Layout
from runtime.session.cpu.kv_arena import KVArena
from runtime.session.session import FloatArray, Int64Array

_DEVICE = "cpu"


class LogitsBuffer:
    """Memory for every call's logits, float32 [rows, V]: one block, since nobody reads but the last call's.

    It grows to the most rows that a call ever asked for. A grown block lies elsewhere and the old one is gone, so a
    call looks at ``address`` before it runs.
    """

    def __init__(self, num_rows: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rows: FloatArray = np.empty((0, vocab_size), np.float32)
        self.address = 0
        self.first(num_rows)

    def first(self, num_rows: int) -> FloatArray:
        """A view of the first ``num_rows`` rows."""
        if num_rows > len(self._rows):
            self._rows = np.empty((num_rows, self._vocab_size), np.float32)
            self.address = self._rows.ctypes.data
        return self._rows[:num_rows]


class BoundCall:
    """One bound call: persistent small inputs, mutated in place, and logits that go to the shared buffer."""

    def __init__(
        self,
        session: ort.InferenceSession,
        arena: KVArena,
        buffer: LogitsBuffer,
        first_slot: int,
        num_rows: int,
    ) -> None:
        self.binding = session.io_binding()
        self.first_slot = first_slot
        self.num_rows = num_rows
        self.adapters_version = -1
        self.adapters_layout: Layout | None = None
        self._buffer = buffer
        self.seqlens_k = np.zeros(num_rows, np.int32)  # [B]
        self.total_sequence_length = np.zeros((), np.int32)
        self._bind_input(graph_io.SEQLENS_K, self.seqlens_k)
        self._bind_input(graph_io.TOTAL_SEQUENCE_LENGTH, self.total_sequence_length)
        self._bind_cache(arena, first_slot)
        self.input_ids: Int64Array = np.zeros((num_rows, 0), np.int64)
        self.logits_indices: Int64Array = np.full(1, -1, np.int64)
        self.num_logits = -1
        self.logits_address = 0

    def set_shape(self, num_tokens: int, indices: Int64Array) -> None:
        """Bind inputs for ``num_tokens`` per row, and ``indices`` [N] with memory for their logits, if it is not so."""
        num_logits = len(indices)
        if self.input_ids.shape[1] != num_tokens:
            self.input_ids = np.zeros((self.num_rows, num_tokens), np.int64)  # [B, T]
            self._bind_input(graph_io.INPUT_IDS, self.input_ids)
        logits = self._buffer.first(num_logits)  # [N, V]
        if (self.num_logits, self.logits_address) != (num_logits, self._buffer.address):
            self.num_logits, self.logits_address = num_logits, self._buffer.address
            self.binding.bind_output(graph_io.LOGITS, _DEVICE, 0, np.float32, logits.shape, self.logits_address)
        if not np.array_equal(indices, self.logits_indices):
            self.logits_indices = indices  # [N]
            self._bind_input(graph_io.LOGITS_INDICES, self.logits_indices)

    def set_adapters(self, adapters: AdapterArena) -> None:
        """Bind the rows' adapters, if any slot may have got another one since."""
        if self.adapters_version != adapters.version:
            self.adapters_version = adapters.version
            layout = adapters.ready(self.first_slot, self.num_rows)
            if layout != self.adapters_layout:
                self.adapters_layout = layout
                adapters.bind(self.binding, self.first_slot, self.num_rows, layout)

    def _bind_input(self, name: str, array: NDArray[np.generic]) -> None:
        self.binding.bind_input(name, _DEVICE, 0, array.dtype, array.shape, array.ctypes.data)

    def _bind_cache(self, arena: KVArena, first_slot: int) -> None:
        shape = (self.num_rows, arena.shape.num_kv_heads, arena.capacity, arena.shape.head_dim)
        for block, (past, present) in enumerate(graph_io.cache_names(arena.shape.num_layers)):
            address = arena.address(block, first_slot)
            self.binding.bind_input(past, _DEVICE, 0, arena.dtype, shape, address)
            self.binding.bind_output(present, _DEVICE, 0, arena.dtype, shape, address)
