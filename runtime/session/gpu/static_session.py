"""A session over slots of a fixed length on any device: arena, call shapes, and which decode steps are kept.

Turns prefill and decode into calls with addresses and shapes and hands them to a ``Runner``, and the logits, where they
lie, to a ``Selector``. Knows no TensorRT, no ONNX Runtime and no CUDA. Axes are those of ``runtime.package.graph_io``.
Inputs are written to pinned memory and uploaded in one piece. A decode call covers the slots from the first one on, in
one of a few sizes, so that there are a few recordings, whoever decodes: each holds the upload, the graph, the head and
the download of a few bytes per row. Input ids are apart: they come from a host, or stay from the call before. Logits
come down where they are asked for; without a head, all of them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from runtime.errors import DeviceError
from runtime.package import graph_io
from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.decode_lane import DecodeLane, TokenIds
from runtime.session.gpu.decode_steps import DecodeStep, DecodeSteps
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.prompt_calls import PromptCalls
from runtime.session.gpu.runner import Call, Runner, Selector, decode_buckets
from runtime.session.gpu.stream_work import StreamWork, queue_graph, queue_selection, rows_of
from runtime.session.kv_budget import kv_bytes_per_token
from runtime.session.selected import Chosen, Selected, from_logits
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FROM_DEVICE, FloatArray, Int64Array, SessionInfo
from runtime.session.slot_rows import SlotRows

_LOG = logging.getLogger("powertrain.backend")
_COPY_BYTES = 2**30
"""A GPU's memory moves as much in a millisecond."""


class StaticSession:
    """``runtime.session.session.Session`` over a ``Runner``. Closes runner, selector and device.

    ``max_model_len`` tokens of a slot may be used, None for all. Without a ``selector`` all tokens are the host's to
    draw. With one, and a runner of two lanes, it is an ``AheadSession``.
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
        selector: Selector | None = None,
    ) -> None:
        limits = runner.limits
        if num_slots > limits.num_slots:
            raise DeviceError(f"{num_slots} slots were asked for, the plan was built for {limits.num_slots}")
        self._runner, self._device, self._limits = runner, device, limits
        self._arena = DeviceArena(device, shape, num_slots, limits.capacity, limits.kv_itemsize)
        name, vocab_size = limits.position_input, shape.vocab_size
        num_lanes, ids = 1 if selector is None else limits.num_lanes, TokenIds(device, num_slots)
        self._lanes = [
            DecodeLane(device, ids, name, num_slots, vocab_size, has_head=selector is not None)
            for _ in range(num_lanes)
        ]
        self._work = StreamWork(device)
        self._prompts = PromptCalls(runner, device, self._arena, self._work, vocab_size, selector=selector)
        self._selector = selector
        self._rows = SlotRows(num_slots, limits.capacity)
        self._steps = [
            DecodeSteps(device, backend, partial(self._prepared, lane), partial(self._queue_step, lane))
            for lane in self._lanes
        ]
        self._launched: deque[_Launched] = deque()
        self._failure: DeviceError | None = None
        self._info = SessionInfo(
            backend=backend,
            num_slots=num_slots,
            max_model_len=min(limits.capacity, max_model_len or limits.capacity),
            vocab_size=shape.vocab_size,
            kv_bytes_per_token=kv_bytes_per_token(shape, limits.kv_itemsize),
            batch_invariant=False,  # kernels are chosen per shape, and nobody promises equal rounding between them
            selects=selector is not None,
            decode_buckets=decode_buckets(num_slots),
            prefill_tokens=limits.prefill_tokens,  # one full call, or several prompts that make up as much
            idle_prefill_tokens=limits.prefill_tokens,
            copy_bytes=_COPY_BYTES,
            runs_ahead=num_lanes > 1,
        )

    @property
    def info(self) -> SessionInfo:
        """Fixed for the session's life."""
        return self._info

    @property
    def run_ns(self) -> int:
        """Nanoseconds from queueing a step to its logits in host memory."""
        return self._work.run_ns

    def warm_up(self) -> None:
        """Run every shape once that a request can bring, so that no request waits for a compiler or a recording.

        What the slots hold is void afterwards.
        """
        begin, info = time.perf_counter(), self._info
        self._prompts.warm_up()
        table = SelectionTable(info.num_slots, info.vocab_size)
        for size in info.decode_buckets:
            for _ in range(2):  # the first run settles, the second one records
                self._warm_up_step(np.arange(size), table)
        _LOG.info("backend %s: warmed up in %.1f s", info.backend, time.perf_counter() - begin)

    def _warm_up_step(self, slots: Int64Array, table: SelectionTable) -> None:
        """One call on every lane, each launched ahead of the one before it."""
        zeros = np.zeros(len(slots), np.int64)
        for number in range(len(self._lanes)):
            self.launch(slots, np.full_like(zeros, FROM_DEVICE) if number else zeros, zeros, table)
        while self._launched:
            self.wait()

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``."""
        self._check_room(start + len(token_ids))
        selected = None if selection is None else self._prompts.token(slot, token_ids, start, selection)
        if selected is None:
            return from_logits(self.prefill(slot, token_ids, start, 1))
        self._rows.wrote(slot, start + len(token_ids))
        return selected

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``. What a call of the graph does not take is run in pieces."""
        self._check_room(start + len(token_ids))
        logits = self._prompts.logits(slot, token_ids, start, num_logits)
        self._rows.wrote(slot, start + len(token_ids))
        return logits

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``. Where possible, a size's second call is recorded and later ones replay it."""
        if self._launched:
            raise DeviceError("a decode call was launched and not waited for")
        self.launch(slots, token_ids, positions, selection)
        return self.wait()

    def launch(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None
    ) -> None:
        """See ``AheadSession.launch``. Work of one stream is done in order, so a call that is queued before another
        one was waited for reads what that one wrote: cache rows, and ids."""
        number = 1 - self._launched[-1].number if self._launched else 0
        lane, size = self._lanes[number], self._bucket_of(int(slots[-1]))
        self._check_room(max(positions.tolist()) + 1)
        places = self._rows.free_rows(0, size)
        places[slots] = positions
        with self._work.timed():
            try:
                if selection is not None and lane.selection is not None:
                    lane.selection.load(selection, slice(0, size), slots.tolist())
                lane.staging.set_positions(places, 1)
                lane.upload_ids(slots, token_ids, size)
                self._steps[number].queue(size)
                lane.mark.set()
            except BaseException:
                self._wait_for_all()  # the next call writes the inputs that what was queued may read
                raise
        self._rows.wrote_each(slots, positions)
        self._launched.append(_Launched(number, slots, is_chosen=selection is not None))

    def _wait_for_all(self) -> None:
        """Wait for the stream. What fails there belongs to the call that is on its way, if one is: its wait tells."""
        try:
            self._device.synchronize()
        except DeviceError as error:
            if not self._launched:
                raise
            self._failure = error

    def wait(self) -> Selected:
        """See ``AheadSession.wait``."""
        launched = self._launched.popleft()
        lane, (failure, self._failure) = self._lanes[launched.number], (self._failure, None)
        if failure is not None:
            raise failure
        with self._work.timed():
            lane.mark.wait()
        chosen: Chosen | None = None
        if lane.selection is not None and launched.is_chosen:
            chosen = lane.selection.chosen(launched.slots)
        rows = launched.slots.tolist()
        return Selected(lambda places: self._decoded_rows(lane, [rows[place] for place in places]), chosen)

    def _decoded_rows(self, lane: DecodeLane, rows: list[int]) -> FloatArray:
        """Logits of a lane's last call's rows; with a head they come down only now."""
        if self._selector is not None:
            return self._work.fetched(lane.staging, rows)
        return rows_of(lane.staging.logits, rows)

    def _bucket_of(self, last_slot: int) -> int:
        return next(size for size in self._info.decode_buckets if size > last_slot)

    def _call(self, lane: DecodeLane, size: int) -> Call:
        return Call(
            is_decode=True,
            first_slot=0,
            num_rows=size,
            num_tokens=1,
            num_logits=size,
            total_tokens=self._limits.capacity,
            addresses=lane.staging.addresses,
        )

    def _check_room(self, num_tokens: int) -> None:
        """Raise DeviceError rather than let a graph write rows of the next slot, which nobody would notice."""
        if num_tokens > self._limits.capacity:
            raise DeviceError(f"a slot holds {self._limits.capacity} tokens, row {num_tokens} was to be written")

    def _prepared(self, lane: DecodeLane, size: int) -> DecodeStep:
        call, selection = self._call(lane, size), None
        if self._selector is not None and lane.selection is not None:
            addresses = {**lane.selection.addresses, graph_io.LOGITS: call.addresses[graph_io.LOGITS]}
            selection = self._selector.prepare(size, addresses)
        return DecodeStep(self._runner.prepare(call, self._arena), selection)

    def _queue_step(self, lane: DecodeLane, size: int, kept: DecodeStep) -> None:
        """All of a decode step but its ids: what goes up, the graph, what the next step needs, and what comes down."""
        if kept.selection is None or lane.selection is None:
            queue_graph(kept.run, lane.staging, size)
        else:
            queue_graph(kept.run, lane.staging, 0)
            queue_selection(kept.selection, lane.selection)
            lane.take_tokens()

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        self._arena.copy_slot(source, target, num_tokens, start)
        self._rows.wrote(target, num_tokens)

    def close(self) -> None:
        """Decode steps before the graph that they run, that before the memory they point to; each whatever fails."""
        with ExitStack() as stack:
            stack.callback(self._device.close)
            stack.callback(self._runner.close)
            if self._selector is not None:
                stack.callback(self._selector.close)
            stack.callback(self._prompts.close)
            for steps in self._steps:
                stack.callback(steps.close)
            if self._launched:
                with suppress(DeviceError):  # which nobody waits for any more
                    self._device.synchronize()


@dataclass(frozen=True, slots=True)
class _Launched:
    """A call that nobody has waited for yet: its lane's number and its rows' slots [B]."""

    number: int
    slots: Int64Array
    is_chosen: bool
