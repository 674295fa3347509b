"""A session over slots of a fixed length on any device: arena, staging of the small arrays, call shapes.

Turns prefill and decode into calls with addresses and shapes and hands them to a ``Runner``. Knows no TensorRT, no
ONNX Runtime and no CUDA. Axes are those of ``runtime.package.graph_io``; inputs are written to pinned memory, uploaded
in one piece, and only logits come back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import DeviceError
from runtime.package import graph_io
from runtime.package.manifest import ModelShape
from runtime.session.device import ALIGNMENT_BYTES, Device, Recording
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.runner import POSITION_DTYPES, Call, Run, Runner
from runtime.session.kv_budget import kv_bytes_per_token
from runtime.session.session import FloatArray, Int64Array, SessionInfo

_FLOAT32_BYTES = 4


class _Staging:
    """Three integer inputs side by side, in pinned and in device memory, and a logits buffer in both."""

    def __init__(
        self, device: Device, position_input: str, *, num_tokens: int, num_rows: int, num_logits: int, vocab_size: int
    ) -> None:
        self._device = device
        self._position_input = position_input
        sizes: dict[str, tuple[int, np.dtype[Any]]] = {
            graph_io.INPUT_IDS: (num_tokens, np.dtype(np.int64)),
            position_input: (num_rows, POSITION_DTYPES[position_input]),
            graph_io.LOGITS_INDICES: (num_logits, np.dtype(np.int64)),
        }
        offsets, end = {}, 0
        for name, (count, dtype) in sizes.items():
            offsets[name] = end
            end += -(-count * dtype.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._host = device.pinned(end)
        base = device.allocate(end)
        self.inputs: dict[str, NDArray[np.signedinteger[Any]]] = {
            name: self._host[offset:][: sizes[name][0] * sizes[name][1].itemsize].view(sizes[name][1])
            for name, offset in offsets.items()
        }
        self._base = base
        self._logits_bytes = device.pinned(num_logits * vocab_size * _FLOAT32_BYTES)
        self.logits: FloatArray = self._logits_bytes.view(np.float32).reshape(num_logits, vocab_size)  # [N, V]
        self._logits_base = device.allocate(self._logits_bytes.nbytes)
        self.addresses = {name: base + offset for name, offset in offsets.items()}
        self.addresses[graph_io.LOGITS] = self._logits_base

    def set_positions(self, positions: Int64Array, num_tokens: int) -> None:
        """Place ``num_tokens`` per row from cache rows ``positions``, int64 [B], on."""
        last = num_tokens - 1 if self._position_input == graph_io.SEQLENS_K else 0
        self.inputs[self._position_input][: len(positions)] = positions + last

    def upload(self) -> None:
        self._device.upload(self._base, self._host)

    def download(self, num_logits: int) -> None:
        self._device.download(
            self._logits_bytes[: num_logits * self.logits.shape[1] * _FLOAT32_BYTES], self._logits_base
        )


@dataclass(slots=True)
class _DecodeStep:
    """What is kept of a decode shape: the run made ready for it, and its recording from the second call on."""

    run: Run
    recording: Recording | None = None


class StaticSession:
    """``runtime.session.session.Session`` over a ``Runner``. Closes runner and device."""

    def __init__(self, backend: str, runner: Runner, device: Device, shape: ModelShape, num_slots: int) -> None:
        limits = runner.limits
        if num_slots > limits.num_slots:
            raise DeviceError(f"{num_slots} slots were asked for, the plan was built for {limits.num_slots}")
        self._runner, self._device, self._limits = runner, device, limits
        self._arena = DeviceArena(device, shape, num_slots, limits.capacity, limits.kv_itemsize)
        name, vocab_size = limits.position_input, shape.vocab_size
        self._decode_staging = _Staging(
            device, name, num_tokens=num_slots, num_rows=num_slots, num_logits=num_slots, vocab_size=vocab_size
        )
        self._prefill_staging = _Staging(
            device,
            name,
            num_tokens=limits.prefill_tokens,
            num_rows=1,
            num_logits=limits.max_logits,
            vocab_size=vocab_size,
        )
        self._decode_steps: dict[tuple[int, int], _DecodeStep] = {}
        self._run_ns = 0
        self._info = SessionInfo(
            backend=backend,
            num_slots=num_slots,
            max_model_len=limits.capacity,
            vocab_size=shape.vocab_size,
            kv_bytes_per_token=kv_bytes_per_token(shape, limits.kv_itemsize),
            batch_invariant=False,  # kernels are chosen per shape, and nobody promises equal rounding between them
        )

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds from queueing a step to its logits in host memory."""
        return self._run_ns

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``. More tokens, or more logits, than the graph takes are run in pieces."""
        most = self._limits.max_logits
        if num_logits > most:
            before = len(token_ids) - most
            earlier = self.prefill(slot, token_ids[:before], start, num_logits - most).copy()
            later = self.prefill(slot, token_ids[before:], start + before, most)
            return np.concatenate([earlier, later])
        step = self._limits.prefill_tokens
        first = len(token_ids) % step or min(step, len(token_ids))
        begin = 0
        for end in range(first, len(token_ids) + 1, step):
            is_last = end == len(token_ids)
            self._prefill_piece(slot, token_ids[begin:end], start + begin, max(1, num_logits) if is_last else 1)
            begin = end
        return self._prefill_staging.logits[:num_logits]

    def _prefill_piece(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> None:
        staging, count = self._prefill_staging, len(token_ids)
        staging.inputs[graph_io.INPUT_IDS][:count] = token_ids
        staging.set_positions(np.array([start]), count)
        staging.inputs[graph_io.LOGITS_INDICES][:num_logits] = np.arange(count - num_logits, count)
        call = Call(
            is_decode=False,
            first_slot=slot,
            num_rows=1,
            num_tokens=count,
            num_logits=num_logits,
            total_tokens=start + count,
            addresses=staging.addresses,
        )
        begin = time.perf_counter_ns()
        self._queue(self._runner.prepare(call, self._arena), staging, num_logits)
        self._device.synchronize()
        self._run_ns += time.perf_counter_ns() - begin

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """See ``Session.decode``. Where possible, a shape's second call is recorded and later ones replay it."""
        staging, count = self._decode_staging, len(token_ids)
        staging.inputs[graph_io.INPUT_IDS][:count] = token_ids
        staging.set_positions(positions, 1)
        staging.inputs[graph_io.LOGITS_INDICES][:count] = np.arange(count)
        call = Call(
            is_decode=True,
            first_slot=first_slot,
            num_rows=count,
            num_tokens=1,
            num_logits=count,
            total_tokens=self._limits.capacity,
            addresses=staging.addresses,
        )
        begin = time.perf_counter_ns()
        self._queue_decode(call)
        self._device.synchronize()
        self._run_ns += time.perf_counter_ns() - begin
        return staging.logits[:count]

    def _queue_decode(self, call: Call) -> None:
        key, staging, count = (call.first_slot, call.num_rows), self._decode_staging, call.num_logits
        kept = self._decode_steps.get(key)
        if kept is None:
            kept = self._decode_steps[key] = _DecodeStep(self._runner.prepare(call, self._arena))
            # The first run settles what a runtime does lazily, which must not be recorded.
            return self._queue(kept.run, staging, count)
        run = kept.run
        if not run.may_be_recorded:
            return self._queue(run, staging, count)
        if kept.recording is None:
            kept.recording = self._device.record(lambda: self._queue(run, staging, count))
        return kept.recording.launch()

    @staticmethod
    def _queue(run: Run, staging: _Staging, num_logits: int) -> None:
        staging.upload()
        run.enqueue()
        staging.download(num_logits)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        self._arena.copy_slot(source, target, num_tokens, start)

    def close(self) -> None:
        """Decode steps before the graph that they run, that before the memory they point to."""
        self._decode_steps.clear()
        self._runner.close()
        self._device.close()
