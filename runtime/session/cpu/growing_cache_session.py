"""Runs a graph whose cache grows by concatenation: the shape that Optimum's exporter gives every architecture.

One sequence at a time: such a graph cannot append in place, and its rows share one past length. Each slot keeps what
the last call returned as its present, which the next call takes as its past without a copy; only rewinding a slot
copies. Knows ONNX Runtime; knows nothing of requests or sampling.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.errors import PackageError
from runtime.package import graph_io
from runtime.package.manifest import ModelShape
from runtime.session.cpu.ort_session import BUSY_PREFILL_TOKENS, OrtOptions, cpu_session_options
from runtime.session.kv_budget import KVPlan
from runtime.session.ort_run import open_graph, run_bound
from runtime.session.selected import Selected, from_logits
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray, Int64Array, SessionInfo

_ATTENTION_MASK = "attention_mask"
_POSITION_IDS = "position_ids"
_DEVICE = "cpu"


@dataclass(slots=True)
class _Slot:
    """Cached rows of one sequence: per layer and kind a value [1, H, length, D]; never changed, only replaced."""

    length: int = 0
    values: list[Any] = field(default_factory=list)


class GrowingCacheSession:
    """``runtime.session.session.Session`` on a graph with ``past_key_values.{i}`` in and longer ``present.{i}`` out."""

    def __init__(self, graph: Path, shape: ModelShape, kv: KVPlan, options: OrtOptions) -> None:
        self._session = open_graph(graph, cpu_session_options(options), ["CPUExecutionProvider"])
        caches = graph_io.cache_names(shape.num_layers)
        self._pasts, self._presents = [past for past, _ in caches], [present for _, present in caches]
        self._inputs = {value.name for value in self._session.get_inputs()}
        if strange := self._inputs - {graph_io.INPUT_IDS, _ATTENTION_MASK, _POSITION_IDS, *self._pasts}:
            raise PackageError(f"the graph wants inputs that nothing here feeds: {', '.join(sorted(strange))}")
        self._shape = shape
        self._slots = [_Slot() for _ in range(kv.num_slots)]
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
            any_slots=True,
        )

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
        """See ``Session.decode_tokens``. The graph runs once per slot, and the host draws."""
        del selection
        places = enumerate(zip(slots.tolist(), positions.tolist(), strict=True))
        rows = [self._run(slot, token_ids[row : row + 1], position) for row, (slot, position) in places]
        return from_logits(np.concatenate(rows))

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``."""
        del selection
        return from_logits(self.prefill(slot, token_ids, start, 1))

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``."""
        logits = self._run(slot, token_ids, start)
        return logits[len(token_ids) - num_logits :]

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``. Values are shared: no call changes one."""
        del start  # whole values are shared, and the first rows are equal
        given = self._slots[source]
        self._slots[target] = _Slot(given.length, list(given.values))
        self._rewind(target, num_tokens)

    def close(self) -> None:
        """Drop every cached value."""
        self._slots = [_Slot() for _ in self._slots]

    def _run(self, slot: int, token_ids: Int64Array, start: int) -> FloatArray:
        """Logits float32 [T, V] of ``token_ids`` [T] after the slot's first ``start`` tokens."""
        self._rewind(slot, start)
        end = start + len(token_ids)
        small = {
            graph_io.INPUT_IDS: token_ids[None].astype(np.int64),  # [1, T]
            _ATTENTION_MASK: np.ones((1, end), np.int64),
            _POSITION_IDS: np.arange(start, end, dtype=np.int64)[None],
        }
        logits = np.empty((1, len(token_ids), self._info.vocab_size), np.float32)
        binding = self._session.io_binding()
        for name in self._inputs & set(small):
            array = np.ascontiguousarray(small[name])
            small[name] = array  # the binding holds an address, not the array
            binding.bind_input(name, _DEVICE, 0, array.dtype, array.shape, array.ctypes.data)
        for name, value in zip(self._pasts, self._slots[slot].values, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(graph_io.LOGITS, _DEVICE, 0, np.float32, logits.shape, logits.ctypes.data)
        for name in self._presents:
            binding.bind_output(name, _DEVICE)
        begin = time.perf_counter_ns()
        run_bound(self._session, binding)
        self._run_ns += time.perf_counter_ns() - begin
        self._slots[slot] = _Slot(end, binding.get_outputs()[1:])
        rows: FloatArray = logits[0]
        return rows

    def _rewind(self, slot: int, num_tokens: int) -> None:
        """Shorten a slot's rows to ``num_tokens``; a slot never used gets empty ones."""
        held = self._slots[slot]
        if held.length == num_tokens and held.values:
            return
        if held.length < num_tokens:
            raise ValueError(f"slot {slot} holds {held.length} tokens, {num_tokens} were asked for")
        if num_tokens == 0:
            empty = np.zeros((1, self._shape.num_kv_heads, 0, self._shape.head_dim), np.float32)
            values = [ort.OrtValue.ortvalue_from_numpy(empty, _DEVICE) for _ in self._pasts]
        else:
            cut = (np.ascontiguousarray(value.numpy()[:, :, :num_tokens]) for value in held.values)
            values = [ort.OrtValue.ortvalue_from_numpy(array, _DEVICE) for array in cut]
        self._slots[slot] = _Slot(num_tokens, values)
