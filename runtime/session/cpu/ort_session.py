"""Runs a package's ``ort`` graph on ONNX Runtime's CPU provider over a KV arena, bound by address.

Owns the ONNX Runtime session, the arena and the bindings; knows nothing of requests or sampling. Past and present
of a slot are bound to the same address, which makes GroupQueryAttention append in place. Bindings are built once
and reused: setting up 120 of them costs 540 us, running with bound ones 28 us (measured while designing).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.adapter import Adapter
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.package import graph_io
from runtime.package.adapter_room import AdapterRoom
from runtime.package.manifest import ModelShape
from runtime.session.cpu.adapter_arena import AdapterArena, Layout
from runtime.session.cpu.huge_pages import huge_pages_for_new_memory
from runtime.session.cpu.kv_arena import KVArena
from runtime.session.kv_budget import KVPlan
from runtime.session.ort_run import open_graph, run_bound
from runtime.session.row_independence import rows_are_independent
from runtime.session.selected import Selected, from_logits
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray, Int64Array, SessionInfo
from runtime.session.slot_rows import SlotRows

BUSY_PREFILL_TOKENS = 128
"""Prompt tokens of a step in which others decode: they wait some 0.1 s for it (2 cores)."""
_DEVICE = "cpu"
_LOG_ERRORS_ONLY = 3
_DYNAMIC_BLOCK_BASE = 4
"""Threads take a loop's work in pieces as they become free instead of one fixed part each, so a thread that the machine
holds up does not hold up the step: 6 to 11 % less time at batch 1, nothing beyond noise at 16 and in prefill (2 virtual
cores)."""


_PROBED_ROWS = 4
"""Rows that are compared with adapters: more would cost memory, and a matrix of its own per row knows no batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtOptions:
    """ONNX Runtime's knobs.

    ``spin_us`` bounds how long an idle worker thread burns its core waiting for the next kernel; unbounded spinning
    (the default of ONNX Runtime) starves the event loop on small machines. 500 us outlasts the gap between two
    steps, so a step does not begin by waking a thread. 0 switches spinning off.
    """

    intra_op_threads: int
    spin_us: int = 500
    config_entries: Mapping[str, str] = field(default_factory=dict)


def cpu_session_options(options: OrtOptions) -> ort.SessionOptions:
    """Session options for low-latency decoding on the CPU provider."""
    so = ort.SessionOptions()
    so.intra_op_num_threads = options.intra_op_threads
    so.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    so.log_severity_level = _LOG_ERRORS_ONLY
    so.enable_mem_pattern = False
    so.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spin_us else "0")
    so.add_session_config_entry("session.dynamic_block_base", str(_DYNAMIC_BLOCK_BASE))
    if options.spin_us:
        so.add_session_config_entry("session.intra_op.spin_duration_us", str(options.spin_us))
    for key, value in options.config_entries.items():
        so.add_session_config_entry(key, value)
    return so


class _LogitsBuffer:
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


class _Call:
    """One bound call: persistent small inputs, mutated in place, and logits that go to the shared buffer."""

    def __init__(
        self,
        session: ort.InferenceSession,
        arena: KVArena,
        buffer: _LogitsBuffer,
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


class OrtSession:
    """``runtime.session.session.Session`` on ONNX Runtime's CPU provider, and ``TakesAdapters``.

    ``room`` is what the graph has for adapters. ``probe``, an adapter for it, is what rows are compared with.
    """

    def __init__(
        self,
        graph: Path,
        shape: ModelShape,
        kv: KVPlan,
        options: OrtOptions,
        kv_dtype: str,
        *,
        room: AdapterRoom | None = None,
        probe: Adapter | None = None,
    ) -> None:
        providers = ["CPUExecutionProvider"]
        with huge_pages_for_new_memory():
            self._session = open_graph(graph, cpu_session_options(options), providers)
        self._arena = KVArena(shape, kv.num_slots, kv.slot_tokens, kv_dtype)
        self._decode_calls: dict[tuple[int, int], _Call] = {}
        self._prefill_calls: dict[int, _Call] = {}
        self._logits = _LogitsBuffer(kv.num_slots, shape.vocab_size)
        self._adapters = None if room is None else AdapterArena(room, kv.num_slots)
        self._rows = SlotRows(kv.num_slots, kv.slot_tokens)
        self._run_ns = 0
        self._info = SessionInfo(
            backend="cpu",
            num_slots=kv.num_slots,
            max_model_len=kv.slot_tokens,
            vocab_size=shape.vocab_size,
            kv_bytes_per_token=kv.bytes_per_token,
            batch_invariant=True,
            prefill_tokens=BUSY_PREFILL_TOKENS,
            idle_prefill_tokens=IDLE_PREFILL_CHUNK_TOKENS,
        )
        self._info = replace(self._info, batch_invariant=rows_are_independent(self) and self._rows_adapt_alike(probe))
        if room is not None and probe is not None:  # gives the memory back that the comparison wrote to
            self.close()
            self._adapters = AdapterArena(room, kv.num_slots)

    def _rows_adapt_alike(self, probe: Adapter | None) -> bool:
        """Whether rows with adapters come out the same alone and in a batch, too: every second one gets ``probe``, and
        then all, which share what they read."""
        if probe is None:
            return True
        for stride in (2, 1):
            for slot in range(0, self._info.num_slots, stride):
                self.set_adapter(slot, probe)
            if not rows_are_independent(self, most=_PROBED_ROWS):
                return False
        return True

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds spent inside ONNX Runtime."""
        return self._run_ns

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``. All are the host's to draw, whose logits lie in its memory already."""
        del selection
        return from_logits(self._decoded(slots, token_ids, positions))

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``."""
        del selection
        return from_logits(self.prefill(slot, token_ids, start, 1))

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``."""
        call = self._prefill_calls.get(slot)
        if call is None:
            call = self._prefill_calls[slot] = _Call(self._session, self._arena, self._logits, slot, 1)
        end = start + len(token_ids)
        call.set_shape(len(token_ids), np.arange(len(token_ids) - num_logits, len(token_ids), dtype=np.int64))
        call.input_ids[0] = token_ids
        call.seqlens_k[0] = end - 1
        call.total_sequence_length[...] = end
        self._rows.wrote(slot, end)
        self._run(call)
        return self._logits.first(call.num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """See ``Session.decode``."""
        return self._decoded(np.arange(first_slot, first_slot + len(token_ids)), token_ids, positions)

    def _decoded(self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """Logits [B, V] of ``slots``: attention wants a range, so slots between them are computed, without a head."""
        first, count = int(slots[0]), len(slots)
        num_rows = int(slots[-1]) + 1 - first
        call = self._decode_calls.get((first, num_rows))
        if call is None:
            call = _Call(self._session, self._arena, self._logits, first, num_rows)
            self._decode_calls[first, num_rows] = call
        is_dense, rows = count == num_rows, slots - first
        # A new call, or the buffer has grown since its last run, or other rows are wanted.
        if call.logits_address != self._logits.address or call.num_logits != count or not is_dense:
            call.set_shape(1, rows)
        if is_dense:
            call.input_ids[:, 0] = token_ids
            call.seqlens_k[:] = positions
        else:
            call.seqlens_k[:] = self._rows.free_rows(first, first + num_rows)
            call.seqlens_k[rows] = positions
            call.input_ids[rows, 0] = token_ids
        # A reduction with cold caches costs 30 us.
        call.total_sequence_length[...] = max(call.seqlens_k.tolist()) + 1
        self._rows.wrote_each(slots, positions)
        self._run(call)
        return self._logits.first(count)

    def _run(self, call: _Call) -> None:
        if self._adapters is not None:
            call.set_adapters(self._adapters)
        begin = time.perf_counter_ns()
        run_bound(self._session, call.binding)
        self._run_ns += time.perf_counter_ns() - begin

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        """See ``TakesAdapters``."""
        if self._adapters is not None:
            self._adapters.set(slot, adapter)
        elif adapter is not None:
            raise ValueError("the graph has no room for adapters")

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        self._arena.copy_slot(source, target, num_tokens, start)
        self._rows.wrote(target, num_tokens)

    def close(self) -> None:
        """Drop the bindings before the arena and the session that they point to."""
        self._decode_calls.clear()
        self._prefill_calls.clear()
