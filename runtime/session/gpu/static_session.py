"""A session over slots of a fixed length on any device: arena, call shapes, and which decode steps are kept.

Turns prefill and decode into calls with addresses and shapes and hands them to a ``Runner``. Knows no TensorRT, no
ONNX Runtime and no CUDA. Axes are those of ``runtime.package.graph_io``; inputs are written to pinned memory, uploaded
in one piece, and only logits come back.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from runtime.errors import DeviceError, RecordingRefused
from runtime.package import graph_io
from runtime.package.manifest import ModelShape
from runtime.session.device import Device, Recording
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.prefill_pieces import Piece, prefill_pieces
from runtime.session.gpu.runner import Call, Run, Runner
from runtime.session.gpu.staging import Staging
from runtime.session.kv_budget import kv_bytes_per_token
from runtime.session.session import FloatArray, Int64Array, SessionInfo

_LOG = logging.getLogger("powertrain.backend")


@dataclass(slots=True)
class _DecodeStep:
    """What is kept of a decode shape: the run made ready for it, and its recording from the second call on.

    The first run settles what a runtime does lazily, which must not be recorded.
    """

    run: Run
    is_settled: bool = False
    recording: Recording | None = None

    def close(self) -> None:
        """The recording before what it was recorded from."""
        try:
            if self.recording is not None:
                self.recording.close()
        finally:
            self.run.close()


class StaticSession:
    """``runtime.session.session.Session`` over a ``Runner``. Closes runner and device.

    ``max_model_len`` tokens of a slot may be used, None for all.
    """

    def __init__(
        self,
        backend: str,
        runner: Runner,
        device: Device,
        shape: ModelShape,
        num_slots: int,
        *,
        max_model_len: int | None = None,
    ) -> None:
        limits = runner.limits
        if num_slots > limits.num_slots:
            raise DeviceError(f"{num_slots} slots were asked for, the plan was built for {limits.num_slots}")
        self._runner, self._device, self._limits = runner, device, limits
        self._arena = DeviceArena(device, shape, num_slots, limits.capacity, limits.kv_itemsize)
        name, vocab_size = limits.position_input, shape.vocab_size
        self._decode_staging = Staging(
            device, name, num_tokens=num_slots, num_rows=num_slots, num_logits=num_slots, vocab_size=vocab_size
        )
        self._prefill_staging = Staging(
            device,
            name,
            num_tokens=limits.prefill_tokens,
            num_rows=1,
            num_logits=limits.max_logits,
            vocab_size=vocab_size,
        )
        self._decode_steps: OrderedDict[tuple[int, int], _DecodeStep] = OrderedDict()  # the last used one last
        self._unrecordable: set[tuple[int, int]] = set()
        self._run_ns = 0
        self._info = SessionInfo(
            backend=backend,
            num_slots=num_slots,
            max_model_len=min(limits.capacity, max_model_len or limits.capacity),
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

    def warm_up(self) -> None:
        """Run every shape once that a request can bring, so that no request waits for a compiler or a recording.

        What the slots hold is void afterwards.
        """
        begin, limits, info = time.perf_counter(), self._limits, self._info
        for num_tokens in limits.prefill_buckets or (limits.prefill_tokens,):
            for num_logits in limits.logits_buckets or (limits.max_logits,):
                piece = Piece(0, num_tokens, num_tokens, min(num_tokens, num_logits), num_logits)
                self._prefill_piece(0, np.zeros(num_tokens, np.int64), 0, piece)
        for count in range(info.num_slots, 0, -1):  # few sequences are the most frequent, so they are kept the longest
            zeros = np.zeros(count, np.int64)
            for _ in range(2):  # the first run settles, the second one records
                self.decode(0, zeros, zeros)
        _LOG.info("backend %s: warmed up in %.1f s", info.backend, time.perf_counter() - begin)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``. What a call of the graph does not take is run in pieces."""
        self._check_room(start + len(token_ids))
        pieces = prefill_pieces(self._limits, len(token_ids), start, num_logits)
        answer, filled = np.empty((num_logits, self._info.vocab_size), np.float32), 0
        rows = answer
        for piece in pieces:
            rows = self._prefill_piece(slot, token_ids[piece.begin : piece.end], start + piece.begin, piece)
            if len(rows) < num_logits:
                answer[filled : filled + len(rows)] = rows
                filled += len(rows)
        return answer if filled else rows  # nearly always the last piece has them all

    def _prefill_piece(self, slot: int, token_ids: Int64Array, start: int, piece: Piece) -> FloatArray:
        """Run one piece; the rows of logits that it was to give, [num_logits, V]."""
        staging, count = self._prefill_staging, len(token_ids)
        ids, indices = staging.inputs[graph_io.INPUT_IDS], staging.inputs[graph_io.LOGITS_INDICES]
        ids[:count] = token_ids
        ids[count : piece.num_tokens] = 0
        staging.set_positions(np.array([start]), piece.num_tokens)
        indices[: piece.num_logits] = np.arange(count - piece.num_logits, count)
        indices[piece.num_logits : piece.padded_logits] = count - 1
        call = Call(
            is_decode=False,
            first_slot=slot,
            num_rows=1,
            num_tokens=piece.num_tokens,
            num_logits=piece.padded_logits,
            total_tokens=start + piece.num_tokens,
            addresses=staging.addresses,
        )
        with self._run():
            self._queue(self._runner.prepare(call, self._arena), staging, piece.num_logits)
        return staging.logits[: piece.num_logits]

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        """See ``Session.decode``. Where possible, a shape's second call is recorded and later ones replay it."""
        self._check_room(max(positions.tolist()) + 1)
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
        with self._run():
            self._queue_decode(call)
        return staging.logits[:count]

    def _check_room(self, num_tokens: int) -> None:
        """Raise DeviceError rather than let a graph write rows of the next slot, which nobody would notice."""
        if num_tokens > self._limits.capacity:
            raise DeviceError(f"a slot holds {self._limits.capacity} tokens, row {num_tokens} was to be written")

    @contextmanager
    def _run(self) -> Iterator[None]:
        """Wait for what is queued inside, also after a failure: the next call writes the inputs that it may read."""
        begin = time.perf_counter_ns()
        try:
            yield
        finally:
            self._device.synchronize()
            self._run_ns += time.perf_counter_ns() - begin

    def _queue_decode(self, call: Call) -> None:
        key = (call.first_slot, call.num_rows)
        kept = self._decode_steps.get(key)
        if kept is None:
            if len(self._decode_steps) >= self._limits.max_kept:
                _, oldest = self._decode_steps.popitem(last=False)
                oldest.close()
            kept = self._decode_steps[key] = _DecodeStep(self._runner.prepare(call, self._arena))
        self._decode_steps.move_to_end(key)
        if kept.recording is None and kept.is_settled and kept.run.may_be_recorded and key not in self._unrecordable:
            kept.recording = self._recorded(key, kept.run)
        if kept.recording is not None:
            return kept.recording.launch()
        self._queue(kept.run, self._decode_staging, call.num_logits)
        kept.is_settled = True
        return None

    def _recorded(self, key: tuple[int, int], run: Run) -> Recording | None:
        """The recording of a decode shape; None from now on if the device refuses it, told once as a warning."""
        first_slot, num_rows = key
        try:
            return self._device.record(lambda: self._queue(run, self._decode_staging, num_rows))
        except RecordingRefused as refusal:
            level = logging.INFO if self._unrecordable else logging.WARNING
            self._unrecordable.add(key)
            _LOG.log(
                level,
                "backend %s: a step of %d rows from slot %d runs unrecorded from now on, which is slower (%s)",
                self._info.backend,
                num_rows,
                first_slot,
                refusal,
            )
            return None

    @staticmethod
    def _queue(run: Run, staging: Staging, num_logits: int) -> None:
        staging.upload()
        run.enqueue()
        if num_logits:
            staging.download(num_logits)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        self._arena.copy_slot(source, target, num_tokens, start)

    def close(self) -> None:
        """Decode steps before the graph that they run, that before the memory they point to; each whatever fails."""
        with ExitStack() as stack:
            stack.callback(self._device.close)
            stack.callback(self._runner.close)
            while self._decode_steps:
                stack.callback(self._decode_steps.popitem()[1].close)
