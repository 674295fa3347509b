"""Runs a package's ``ort`` graph on ONNX Runtime's CPU provider over a KV arena, bound by address.

Owns the ONNX Runtime session, the arena and the calls that are bound; knows nothing of requests or sampling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.adapter import Adapter
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.package.adapter_room import AdapterRoom
from runtime.package.manifest import ModelShape
from runtime.session.cpu.adapter_arena import AdapterArena
from runtime.session.cpu.bound_call import BoundCall, LogitsBuffer
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
    return so


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
        self._decode_calls: dict[tuple[int, int], BoundCall] = {}
        self._prefill_calls: dict[int, BoundCall] = {}
        self._logits = LogitsBuffer(kv.num_slots, shape.vocab_size)
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
        """See ``Session.decode_tokens``. All are the host's to draw, whose logits lie in its memory already.

        Attention wants a range, so slots between those that were asked for are computed, without a head.
        """
        del selection
        first, count = int(slots[0]), len(slots)
        num_rows = int(slots[-1]) + 1 - first
        call = self._decode_calls.get((first, num_rows))
        if call is None:
            call = BoundCall(self._session, self._arena, self._logits, first, num_rows)
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
        return from_logits(self._logits.first(count))

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
            call = self._prefill_calls[slot] = BoundCall(self._session, self._arena, self._logits, slot, 1)
        end = start + len(token_ids)
        call.set_shape(len(token_ids), np.arange(len(token_ids) - num_logits, len(token_ids), dtype=np.int64))
        call.input_ids[0] = token_ids
        call.seqlens_k[0] = end - 1
        call.total_sequence_length[...] = end
        self._rows.wrote(slot, end)
        self._run(call)
        return self._logits.first(call.num_logits)

    def _run(self, call: BoundCall) -> None:
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
