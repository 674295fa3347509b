"""HostTensorRT: TensorRT's plan and context API over host memory, strict where TensorRT would be silently wrong.

"Device memory" is host memory and a "stream" is a list of work that runs, in order, when somebody synchronizes: a
result read too early, or an input changed too early, shows. Executing runs the float32 ``trt`` graph in ONNX Runtime
on exactly the addresses and shapes that were set, and fails on an address that is unset, freed, too small or shared
by two tensors, on a cache whose past and present differ, on an input that nobody uploaded since it was last read, and
on a shape that a profile switch voided. A shape outside the profile is refused as TensorRT refuses it: with False.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.package import dtypes, graph_io
from runtime.session.device import ALIGNMENT_BYTES, Bytes

STREAM = 7


class HostError(AssertionError):
    """What TensorRT or CUDA would have answered with garbage or a crash."""


class _Mode(Enum):
    INPUT = 0
    OUTPUT = 1


@dataclass(frozen=True)
class _Named:
    name: str


@dataclass
class HostDevice:
    """``runtime.session.device.Device`` in host memory, with a stream that runs late."""

    blocks: dict[int, Bytes] = field(default_factory=dict)
    queue: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Callable[[], None]] | None = None
    fresh: list[tuple[int, int]] = field(default_factory=list)
    launches: int = 0
    num_synchronizes: int = 0
    closed: bool = False

    @property
    def stream(self) -> int:
        return STREAM

    def allocate(self, num_bytes: int) -> int:
        raw = np.zeros(num_bytes + 2 * ALIGNMENT_BYTES, np.uint8)
        address = int(raw.ctypes.data) + -raw.ctypes.data % ALIGNMENT_BYTES
        begin = address - raw.ctypes.data
        self.blocks[address] = raw[begin : begin + num_bytes]
        return address

    def pinned(self, num_bytes: int) -> Bytes:
        return np.full(-(-num_bytes // 8) * 8, 0xFF, np.uint8)[:num_bytes]

    def view(self, address: int, num_bytes: int) -> Bytes:
        """The bytes at an address; HostError unless one block holds them all."""
        if self.closed:
            raise HostError("memory was used after the device was closed")
        for base, block in self.blocks.items():
            if base <= address and address + num_bytes <= base + len(block):
                return block[address - base : address - base + num_bytes]
        raise HostError(f"no block holds {num_bytes} bytes at {address:#x}")

    def push(self, work: Callable[[], None]) -> None:
        (self.queue if self.recording is None else self.recording).append(work)

    def upload(self, target: int, source: Bytes) -> None:
        region = self.view(target, source.nbytes)

        def work() -> None:
            region[:] = source
            self.fresh.append((target, target + source.nbytes))

        self.push(work)

    def download(self, target: Bytes, source: int) -> None:
        region = self.view(source, target.nbytes)
        self.push(lambda: target.__setitem__(slice(None), region))

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        into = self.view(target, pitch_bytes * num_rows).reshape(num_rows, pitch_bytes)
        out_of = self.view(source, pitch_bytes * num_rows).reshape(num_rows, pitch_bytes)
        self.push(lambda: into.__setitem__((slice(None), slice(row_bytes)), out_of[:, :row_bytes]))

    def record(self, work: Callable[[], None]) -> HostRecording:
        self.recording = []
        work()
        recorded, self.recording = self.recording, None
        return HostRecording(self, recorded)

    def synchronize(self) -> None:
        self.num_synchronizes += 1
        pending, self.queue = self.queue, []
        for work in pending:
            work()

    def close(self) -> None:
        if self.queue:
            raise HostError("the device was closed with work in the stream")
        self.closed = True
        self.blocks.clear()


@dataclass
class HostRecording:
    device: HostDevice
    work: list[Callable[[], None]]

    def launch(self) -> None:
        self.device.launches += 1
        for piece in self.work:
            self.device.push(piece)


Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


class HostCudaEngine:
    """``trt.api.CudaEngine`` over an ONNX graph. ``aliases`` False forgets that caches are updated in place."""

    def __init__(
        self, graph: Path, *, num_slots: int = 4, prefill_tokens: int = 16, max_logits: int = 8, aliases: bool = True
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        caches = graph_io.cache_names((len(self.outputs) - 1) // 2)
        self.pasts = {present: past for past, present in caches}
        self.aliases = self.pasts if aliases else {}
        self.contexts: list[HostContext] = []
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

    def get_tensor_mode(self, name: str, /) -> _Mode:
        return _Mode.INPUT if name in self.inputs else _Mode.OUTPUT

    def get_tensor_dtype(self, name: str, /) -> _Named:
        return _Named(self.element_type(name).tensorrt_name)

    def element_type(self, name: str) -> dtypes.ElementType:
        return dtypes.BY_ORT_NAME[(self.inputs | self.outputs)[name].type]

    def get_tensor_location(self, name: str, /) -> _Named:
        return _Named("DEVICE" if name else "HOST")

    def get_tensor_profile_shape(self, name: str, profile_index: int, /) -> Sequence[Sequence[int]]:
        return self.profiles[profile_index][name]

    def get_aliased_input_tensor(self, name: str, /) -> str | None:
        return self.aliases.get(name)

    def create_execution_context(self, device: HostDevice) -> HostContext:
        self.contexts.append(HostContext(self, device))
        return self.contexts[-1]


class HostContext:
    """``runtime.session.gpu.trt.api.Context``."""

    def __init__(self, plan: HostCudaEngine, device: HostDevice) -> None:
        self.plan, self.device = plan, device
        self.profile = -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int, /) -> bool:
        self._check_stream(stream_handle)
        if profile_index >= len(self.plan.profiles):
            return False
        self.profile = profile_index
        self.shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int], /) -> bool:
        if self.profile < 0:
            raise HostError("a shape was set before a profile")
        low, _, high = self.plan.profiles[self.profile][name]
        if len(shape) != len(low) or any(not a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int, /) -> bool:
        if memory % ALIGNMENT_BYTES:
            raise HostError(f"{name} was set to an address that is not aligned")
        self.addresses[name] = memory
        return name in self.plan.inputs or name in self.plan.outputs

    def infer_shapes(self) -> list[str]:
        return [name for name in self.plan.inputs if name not in self.shapes]

    def execute_async_v3(self, stream_handle: int, /) -> bool:
        self._check_stream(stream_handle)
        shapes = self._all_shapes()
        spans = self._spans(shapes)
        self._check_overlaps(spans)
        addresses = dict(self.addresses)
        self.device.push(lambda: self._run(addresses, shapes, spans))
        return True

    def _check_stream(self, stream_handle: int) -> None:
        if stream_handle != STREAM:
            raise HostError(f"work was queued on stream {stream_handle}, the device's is {STREAM}")

    def _all_shapes(self) -> dict[str, tuple[int, ...]]:
        if missing := self.infer_shapes():
            raise HostError(f"executed without a shape for {missing}")
        shapes = dict(self.shapes)
        shapes[graph_io.LOGITS] = (
            *self.shapes[graph_io.LOGITS_INDICES],
            self.plan.outputs[graph_io.LOGITS].shape[1],
        )
        return shapes | {present: self.shapes[past] for present, past in self.plan.pasts.items()}

    def _spans(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
        spans = {}
        for name, shape in shapes.items():
            if name not in self.addresses:
                raise HostError(f"executed without an address for {name}")
            num_bytes = int(np.prod(shape)) * self.plan.element_type(name).itemsize
            self.device.view(self.addresses[name], num_bytes)
            spans[name] = (self.addresses[name], self.addresses[name] + num_bytes)
        return spans

    def _check_overlaps(self, spans: dict[str, tuple[int, int]]) -> None:
        for present, past in self.plan.pasts.items():
            if spans[present] != spans[past]:
                raise HostError(f"{present} and {past} must be the same memory")
        apart = sorted((span, name) for name, span in spans.items() if name not in self.plan.pasts)
        for (one, name), (other, neighbour) in itertools.pairwise(apart):
            if other[0] < one[1]:
                raise HostError(f"{name} and {neighbour} overlap")

    def _run(
        self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]], spans: dict[str, tuple[int, int]]
    ) -> None:
        for name in (graph_io.INPUT_IDS, graph_io.WRITE_INDICES, graph_io.LOGITS_INDICES):
            if not any(low <= spans[name][0] and spans[name][1] <= high for low, high in self.device.fresh):
                raise HostError(f"{name} was read again without an upload")
        self.device.fresh.clear()
        binding = self.plan.session.io_binding()
        for name, shape in shapes.items():
            self.device.view(addresses[name], spans[name][1] - spans[name][0])
            bind = binding.bind_input if name in self.plan.inputs else binding.bind_output
            bind(name, "cpu", 0, self.plan.element_type(name).numpy, shape, addresses[name])
        self.plan.session.run_with_iobinding(binding)
