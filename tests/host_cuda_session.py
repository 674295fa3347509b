"""HostCudaSession: ONNX Runtime's session with a GPU provider, over host memory, strict about what capture needs.

Runs the graph on the CPU provider but behaves as a provider with ``enable_cuda_graph`` does: a new graph id
runs once, is captured and replayed within one call, and a replay uses what the host read at the capture. It fails on
an input in host memory (ONNX Runtime would copy it once, when it is bound), on memory that the device does not own, on
work left in the stream unless it shares that, on an input that nobody uploaded since it was last read, on a cache whose
past and present differ, on a graph id used with other addresses or shapes than it was captured with, on a total length
that a slot has outgrown since it was captured, and on a stream of its own that it is not to wait for.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.package import dtypes, graph_io, selection_io
from tests.host_device import HostDevice, HostError, Span

Bound = tuple[tuple[int, ...], int]
"""Shape and address."""


@dataclass(eq=False)
class HostBinding:
    """``onnxruntime.IOBinding`` with raw addresses."""

    device: HostDevice
    inputs: dict[str, Bound] = field(default_factory=dict)
    outputs: dict[str, Bound] = field(default_factory=dict)
    dtypes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device.holders.add(self)

    def small_spans(self) -> dict[str, Span]:
        """Where the inputs lie that a host writes before every run."""
        kept = {graph_io.TOTAL_SEQUENCE_LENGTH, *(past for past, _ in self._caches())}
        if graph_io.LOGITS in self.inputs:  # a head's, which lie on the device
            kept = {selection_io.LOGITS, selection_io.MASK}
        return {
            name: (address, address + math.prod(shape) * _itemsize(self.dtypes[name]))
            for name, (shape, address) in self.inputs.items()
            if name not in kept
        }

    def check_caches(self) -> None:
        for past, present in self._caches():
            if self.inputs[past] != self.outputs[present]:
                raise HostError(f"{present} and {past} must be the same memory")

    def _caches(self) -> list[tuple[str, str]]:
        is_head = graph_io.LOGITS in self.inputs
        return [] if is_head else graph_io.cache_names((len(self.outputs) - 1) // 2)

    def bind_input(self, name: str, memory: str, index: int, dtype: Any, shape: tuple[int, ...], address: int) -> None:
        if memory == "cuda":
            self._check(index, address, dtype, shape)
        elif name != graph_io.TOTAL_SEQUENCE_LENGTH:
            raise HostError(f"{name} is bound in host memory: it is copied now, and what changes later is never read")
        self.inputs[name], self.dtypes[name] = (tuple(shape), address), dtype

    def bind_output(self, name: str, memory: str, index: int, dtype: Any, shape: tuple[int, ...], address: int) -> None:
        if memory != "cuda":
            raise HostError(f"{name} is bound in host memory, where a replayed graph does not write")
        self._check(index, address, dtype, shape)
        self.outputs[name], self.dtypes[name] = (tuple(shape), address), dtype

    def _check(self, index: int, address: int, dtype: Any, shape: tuple[int, ...]) -> None:
        if index != self.device.ordinal:
            raise HostError(f"memory of GPU {self.device.ordinal} was bound as GPU {index}'s")
        self.device.view(address, int(np.prod(shape)) * _itemsize(dtype))


@dataclass(frozen=True)
class Captured:
    """What a CUDA graph holds on to."""

    inputs: dict[str, Bound]
    outputs: dict[str, Bound]
    total: int | None


class HostCudaSession:
    """``onnxruntime.InferenceSession``, as far as ``OrtRunner`` uses it. ``graph_ids`` has one entry per call."""

    def __init__(
        self,
        graph: Path,
        options: ort.SessionOptions,
        device: HostDevice,
        option: str = "gpu_graph_id",
        stream: int | None = None,
    ) -> None:
        self.inner = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.device, self.option, self.stream = device, option, stream
        self.graph_ids: list[int] = []
        self.num_executions = 0
        self.captured: dict[int, Captured] = {}
        self.logits_spans: list[Bound] = []

    def get_inputs(self) -> list[Any]:
        return list(self.inner.get_inputs())

    def io_binding(self) -> HostBinding:
        return HostBinding(self.device)

    def run_with_iobinding(self, binding: HostBinding, options: ort.RunOptions) -> None:
        """Done when it returns, or queued on the device's stream if it shares that and is not to wait for it."""
        shares = self.stream == self.device.stream
        waits = _waits(options)
        if not shares and not waits:
            raise HostError("a run on a stream of its own was not to be waited for: nobody knows when it is over")
        if not shares and self.device.queue:
            raise HostError("run before the uploads in the stream were waited for")
        binding.check_caches()
        self.device.check_open()
        graph_id, held = int(options.get_run_config_entry(self.option)), _total(binding)
        self.graph_ids.append(graph_id)
        runs = [held] if graph_id < 0 else self._replayed(graph_id, binding, held)
        inputs, outputs, spans = dict(binding.inputs), dict(binding.outputs), binding.small_spans()

        def work() -> None:
            self.device.read_inputs(spans)
            for total in runs:
                self._execute(inputs, outputs, binding.dtypes, total)

        if shares:
            self.device.push(lambda: work)
        if shares and (waits or len(runs) > 1):  # a capture waits for the stream before it begins
            self.device.synchronize()
        elif not shares:
            work()

    def _replayed(self, graph_id: int, binding: HostBinding, held: int | None) -> list[int | None]:
        """The total length of each run: of a graph's replay, behind the regular one before a capture."""
        is_new = graph_id not in self.captured
        graph = self.captured.setdefault(graph_id, Captured(dict(binding.inputs), dict(binding.outputs), held))
        if (binding.inputs, binding.outputs) != (graph.inputs, graph.outputs):
            raise HostError(f"graph {graph_id} was captured with other addresses or shapes")
        return [held, graph.total] if is_new else [graph.total]

    def _execute(
        self, inputs: dict[str, Bound], outputs: dict[str, Bound], types: dict[str, Any], total: int | None
    ) -> None:
        self.num_executions += 1
        if total is not None:
            (num_rows,), address = inputs[graph_io.SEQLENS_K]
            rows = int(self.device.view(address, 4 * num_rows).view(np.int32).max()) + 1
            if rows > total:
                raise HostError(f"a slot has {rows} rows, total_sequence_length was captured as {total}")
        if graph_io.LOGITS in inputs:
            self.logits_spans.append(inputs[graph_io.LOGITS])
        inner, held = self.inner.io_binding(), np.array(0 if total is None else total, np.int32)
        for name, (shape, address) in inputs.items():
            at = held.ctypes.data if name == graph_io.TOTAL_SEQUENCE_LENGTH else address
            inner.bind_input(name, "cpu", 0, types[name], shape, at)
        for name, (shape, address) in outputs.items():
            inner.bind_output(name, "cpu", 0, types[name], shape, address)
        self.inner.run_with_iobinding(inner)


def _waits(options: ort.RunOptions) -> bool:
    try:
        return bool(options.get_run_config_entry("disable_synchronize_execution_providers") != "1")
    except RuntimeError:  # not among them
        return True


def _itemsize(element_type: Any) -> int:
    """Of NumPy's type or ONNX's number, both of which ONNX Runtime takes."""
    if isinstance(element_type, int):
        return {kind.onnx_number: kind.itemsize for kind in dtypes.BY_NAME.values()}[element_type]
    return int(np.dtype(element_type).itemsize)


def _total(binding: HostBinding) -> int | None:
    bound = binding.inputs.get(graph_io.TOTAL_SEQUENCE_LENGTH)
    if bound is None:
        return None
    return ctypes.c_int32.from_address(bound[1]).value
