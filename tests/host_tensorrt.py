"""HostTensorRT: TensorRT's plan and context API over a HostDevice, strict where TensorRT would be silently wrong.

Executing runs the float32 ``trt`` graph in ONNX Runtime on exactly the addresses and shapes that were set (caches in
half precision are converted on the way), and fails on

* an address that is unset, not aligned, outside live memory, too small for the shape, or shared by two tensors; a
  cache whose past and present differ; scratch memory that is missing, too small or shared with a tensor;
* a shape that a profile switch voided, that was set while the switch was under way, or that nobody inferred;
* an input that nobody uploaded since it was last read; rows after a cache slot's end; tokens and rows that are none;
* work on another stream or another thread than the first.

What TensorRT refuses with False or None is refused so, and ``refused`` makes any call do it. A step may be recorded
after a first run in its shapes, and its context stays as it is until the recording is closed. Contexts go before the
plan.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.errors import DeviceError
from runtime.package import dtypes, graph_io, selection_io
from runtime.session.device import ALIGNMENT_BYTES
from tests.host_device import POISON, HostDevice, HostError, HostRecording, Span


@dataclass(frozen=True)
class _Named:
    name: str


Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class HostCudaEngine:
    """``trt.api.CudaEngine`` over an ONNX graph with slots of ``capacity`` rows.

    ``aliases`` False forgets that caches are updated in place. ``kv`` is the type of the caches. ``refused`` names
    calls, of contexts too, that answer with False, None or what stands for a refusal. ``compiled`` gets every set of
    input shapes that is run for the first time, by profile.
    """

    def __init__(
        self,
        graph: Path,
        *,
        num_slots: int = 4,
        prefill_tokens: int = 16,
        max_logits: int = 8,
        capacity: int = 64,
        kv: str = "float32",
        aliases: bool = True,
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.add_free_dimension_override_by_name(graph_io.CAPACITY, capacity)
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self.caches = graph_io.cache_names((len(self.outputs) - 1) // 2)
        self.pasts = {present: past for past, present in self.caches}
        self.kv, self.capacity = dtypes.BY_NAME[kv], capacity
        self.aliases = self.pasts if aliases else {}
        self.device_memory_size_v2 = 1000
        self.made: list[weakref.ref[HostContext]] = []
        self.refused: set[str] = set()
        self.compiled: list[tuple[int, dict[str, tuple[int, ...]]]] = []
        self.num_inferences = 0
        self.profiles = [
            self._profile((1, num_slots, num_slots), (1, 1, 1), (1, num_slots, num_slots)),
            self._profile((1, 1, 1), (1, prefill_tokens, prefill_tokens), (1, 1, max_logits)),
        ]

    def _profile(self, rows: tuple[int, ...], tokens: tuple[int, ...], logits: tuple[int, ...]) -> Shapes:
        shapes: Shapes = {}
        for name, node in self.inputs.items():
            each: list[tuple[int, ...]] = [(rows[i], *node.shape[1:]) for i in range(3)]
            if name == graph_io.INPUT_IDS:
                each = [(rows[i], tokens[i]) for i in range(3)]
            elif name == graph_io.LOGITS_INDICES:
                each = [(logits[i],) for i in range(3)]
            shapes[name] = (each[0], each[1], each[2])
        return shapes

    @property
    def num_io_tensors(self) -> int:
        return len(self.inputs) + len(self.outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int, /) -> str:
        return str([*self.inputs, *self.outputs][index])

    def get_tensor_dtype(self, name: str, /) -> _Named:
        return _Named(self.element_type(name).tensorrt_name)

    def element_type(self, name: str) -> dtypes.ElementType:
        """Of the tensor as a caller sees it."""
        if name in self.pasts or name in self.pasts.values():
            return self.kv
        return dtypes.BY_ORT_NAME[(self.inputs | self.outputs)[name].type]

    def get_tensor_location(self, name: str, /) -> _Named:
        return _Named("DEVICE" if name and "get_tensor_location" not in self.refused else "HOST")

    def get_tensor_profile_shape(self, name: str, profile_index: int, /) -> Sequence[Sequence[int]]:
        return self.profiles[profile_index][name]

    def get_aliased_input_tensor(self, name: str, /) -> str | None:
        return self.aliases.get(name)

    def create_execution_context(self, device: HostDevice) -> HostContext | None:
        if device.recording is not None:
            raise HostError("a context was made while a step was recorded")
        if "create_execution_context" in self.refused:
            return None
        context = HostContext(self, device)
        self.made.append(weakref.ref(context))
        device.holders.add(context)
        return context

    @property
    def contexts(self) -> list[HostContext]:
        """Those that somebody still holds."""
        return [context for made in self.made if (context := made()) is not None]


@dataclass(eq=False)
class HostPlan:
    """``trt.bound_run.OpenPlan`` over the double of an engine. ``saves``: how many contexts there were at each save."""

    host: HostCudaEngine
    device: HostDevice
    compiles_per_shape: bool = False
    saves: list[int] = field(default_factory=list)
    closed: bool = False

    @property
    def engine(self) -> HostCudaEngine:
        if self.closed:
            raise HostError("a plan was used after it was closed")
        return self.host

    def make_context(self) -> HostContext:
        context = self.engine.create_execution_context(self.device)
        if context is None:
            raise DeviceError("no context")
        return context

    def save_kernels(self) -> None:
        self.saves.append(len(self.host.contexts))

    def close(self) -> None:
        if self.host.contexts:
            raise HostError("a plan was closed before its contexts")
        if self.device.closed:
            raise HostError("a plan was closed after the device")
        self.closed = True


class HostContext:
    """``runtime.session.gpu.trt.api.Context``. While a recording of it is open, nothing about it may change."""

    def __init__(self, plan: HostCudaEngine, device: HostDevice) -> None:
        device.check_open()
        self.plan, self.device = plan, device
        self.profile = -1
        self.is_switching = False
        self.is_inferred = False
        self.recorded_in: list[HostRecording] = []
        self.settled: dict[str, tuple[int, ...]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: Span | None = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int, /) -> bool:
        self._check_stream(stream_handle)
        self._check_changeable("its profile")
        if profile_index >= len(self.plan.profiles) or "set_optimization_profile_async" in self.plan.refused:
            return False
        self.profile, self.is_inferred, self.is_switching = profile_index, False, True
        self.shapes.clear()
        self.settled.clear()
        self.device.push(lambda: lambda: setattr(self, "is_switching", False))
        return True

    def set_device_memory(self, memory: int, size: int, /) -> None:
        self._check_changeable("its memory")
        if memory % ALIGNMENT_BYTES:
            raise HostError("scratch memory is not aligned")
        if size < self.plan.device_memory_size_v2:
            raise HostError(f"scratch memory of {size} bytes, {self.plan.device_memory_size_v2} are needed")
        self.device.view(memory, size)
        self.scratch = (memory, memory + size)

    def set_input_shape(self, name: str, shape: Sequence[int], /) -> bool:
        self._check_changeable("a shape")
        if self.profile < 0:
            raise HostError("a shape was set before a profile")
        if self.is_switching:
            raise HostError("a shape was set before the switch of profiles was waited for")
        low, _, high = self.plan.profiles[self.profile][name]
        is_inside = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if not is_inside or "set_input_shape" in self.plan.refused:
            self.shapes.pop(name, None)  # nobody says what a refusal leaves
            self.is_inferred = False
            return False
        self.is_inferred = self.is_inferred and self.shapes.get(name) == tuple(shape)
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        self._check_changeable("an address")
        if not memory or memory % ALIGNMENT_BYTES:
            raise HostError(f"{name} was set to an address that is not aligned")
        known = name in self.plan.inputs or name in self.plan.outputs
        if not known or "set_tensor_address" in self.plan.refused:
            return False
        self.addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        self._check_changeable("its inferred shapes")
        self.plan.num_inferences += 1
        if "infer_shapes" in self.plan.refused:
            raise RuntimeError("shape inference failed")
        missing = [name for name in self.plan.inputs if name not in self.shapes]
        self.is_inferred = not missing
        return missing

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        self._check_stream(stream_handle)
        if "execute_async_v3" in self.plan.refused:
            return False
        shapes = self._all_shapes()
        spans = self._spans(shapes)
        self._check_overlaps(spans)
        addresses = dict(self.addresses)
        if (recording := self.device.recording) is not None:
            if self.settled != shapes:
                raise HostError("a context was recorded before a first run with these shapes settled it")
            self.recorded_in.append(recording)
        self.device.push(lambda: lambda: self._run(addresses, shapes, spans))
        return True

    def _check_changeable(self, what: str) -> None:
        self.device.check_open()
        if self.device.recording is not None:
            raise HostError(f"{what} of a context changed while a step was recorded")
        if any(not recording.closed for recording in self.recorded_in):
            raise HostError("a context was changed after it was recorded")

    def _check_stream(self, stream_handle: int) -> None:
        self.device.check_open()
        if stream_handle != self.device.stream:
            raise HostError(f"work was queued on stream {stream_handle}, the device's is {self.device.stream}")

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        if missing := [name for name in self.plan.inputs if name not in self.shapes]:
            raise HostError(f"executed without a shape for {missing}")
        if not self.is_inferred:
            raise HostError("executed with shapes that were not inferred since one of them changed")
        rows = self.shapes[graph_io.INPUT_IDS][0]
        if any(self.shapes[name][0] != rows for name in (graph_io.WRITE_INDICES, *self.plan.pasts.values())):
            raise HostError(f"shapes disagree about the rows of the call: {self.shapes}")
        shapes = dict(self.shapes)
        shapes[graph_io.LOGITS] = (
            *self.shapes[graph_io.LOGITS_INDICES],
            self.plan.outputs[graph_io.LOGITS].shape[1],
        )
        return shapes | {present: self.shapes[past] for present, past in self.plan.pasts.items()}

    def _spans(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Span]:
        if self.scratch is None:
            raise HostError("executed without scratch memory")
        spans = {"scratch memory": self.scratch}
        for name, shape in shapes.items():
            if name not in self.addresses:
                raise HostError(f"executed without an address for {name}")
            num_bytes = int(np.prod(shape)) * self.plan.element_type(name).itemsize
            self.device.view(self.addresses[name], num_bytes)
            spans[name] = (self.addresses[name], self.addresses[name] + num_bytes)
        return spans

    def _check_overlaps(self, spans: dict[str, Span]) -> None:
        for present, past in self.plan.pasts.items():
            if spans[present] != spans[past]:
                raise HostError(f"{present} and {past} must be the same memory")
        apart = sorted((span, name) for name, span in spans.items() if name not in self.plan.pasts)
        for (one, name), (other, neighbour) in itertools.pairwise(apart):
            if other[0] < one[1]:
                raise HostError(f"{name} and {neighbour} overlap")

    def _run(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]], spans: dict[str, Span]) -> None:
        small = (graph_io.INPUT_IDS, graph_io.WRITE_INDICES, graph_io.LOGITS_INDICES)
        self.device.read_inputs({name: spans[name] for name in small})
        arrays = {name: self._array(name, addresses[name], shape) for name, shape in shapes.items()}
        self._check_inputs(arrays)
        self.settled = shapes
        if (key := (self.profile, {name: shapes[name] for name in self.plan.inputs})) not in self.plan.compiled:
            self.plan.compiled.append(key)
        self.device.view(spans["scratch memory"][0], self.plan.device_memory_size_v2)[:] = POISON
        outputs = self.plan.session.run(
            None, {name: arrays[name].astype(self._graph_type(name), copy=False) for name in self.plan.inputs}
        )
        for name, value in zip(self.plan.outputs, outputs, strict=True):
            arrays[name][...] = value.astype(arrays[name].dtype, copy=False)

    def _array(self, name: str, address: int, shape: tuple[int, ...]) -> Any:
        kind = self.plan.element_type(name)
        return self.device.view(address, int(np.prod(shape)) * kind.itemsize).view(kind.numpy).reshape(shape)

    def _graph_type(self, name: str) -> Any:
        return dtypes.BY_ORT_NAME[self.plan.inputs[name].type].numpy

    def _check_inputs(self, arrays: dict[str, Any]) -> None:
        ids, starts = arrays[graph_io.INPUT_IDS], arrays[graph_io.WRITE_INDICES]
        wanted, vocab_size = arrays[graph_io.LOGITS_INDICES], self.plan.outputs[graph_io.LOGITS].shape[1]
        if starts.min() < 0 or starts.max() + ids.shape[1] > self.plan.capacity:
            raise HostError(f"{ids.shape[1]} rows from {starts.tolist()} on do not fit slots of {self.plan.capacity}")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise HostError(f"input_ids holds a token that is none of {vocab_size}")
        if wanted.min() < 0 or wanted.max() >= ids.size:
            raise HostError(f"logits_indices names a token that is none of {ids.size}")


class HostSelectionEngine(HostCudaEngine):
    """``trt.api.CudaEngine`` over a selection head of up to ``num_slots`` rows: one profile, no cache."""

    def __init__(self, graph: Path, num_slots: int = 4) -> None:
        super().__init__(graph, num_slots=num_slots)
        self.caches, self.pasts, self.aliases = [], {}, {}
        shapes: Shapes = {
            name: ((1, *node.shape[1:]), (num_slots, *node.shape[1:]), (num_slots, *node.shape[1:]))
            for name, node in self.inputs.items()
        }
        self.profiles = [shapes]

    def create_execution_context(self, device: HostDevice) -> HostContext | None:
        if device.recording is not None:
            raise HostError("a context was made while a step was recorded")
        if "create_execution_context" in self.refused:
            return None
        context = HostSelectionContext(self, device)
        self.made.append(weakref.ref(context))
        device.holders.add(context)
        return context


class HostSelectionContext(HostContext):
    """A context of a head: its rules must be new at each run; logits and masks lie on the device."""

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        if missing := [name for name in self.plan.inputs if name not in self.shapes]:
            raise HostError(f"executed without a shape for {missing}")
        if not self.is_inferred:
            raise HostError("executed with shapes that were not inferred since one of them changed")
        (rows,) = {shape[0] for shape in self.shapes.values()}
        outputs = {name: (rows, *node.shape[1:]) for name, node in self.plan.outputs.items()}
        return {**self.shapes, **outputs}

    def _run(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]], spans: dict[str, Span]) -> None:
        kept = {selection_io.LOGITS, selection_io.MASK, *self.plan.outputs, "scratch memory"}
        self.device.read_inputs({name: span for name, span in spans.items() if name not in kept})
        arrays = {name: self._array(name, addresses[name], shape) for name, shape in shapes.items()}
        self.settled = shapes
        if (key := (self.profile, {name: shapes[name] for name in self.plan.inputs})) not in self.plan.compiled:
            self.plan.compiled.append(key)
        outputs = self.plan.session.run(None, {name: arrays[name] for name in self.plan.inputs})
        for name, value in zip(self.plan.outputs, outputs, strict=True):
            arrays[name][...] = value
