"""HostCuda: ``cuda.bindings.runtime`` over host memory, strict where CUDA would be silently wrong.

What CUDA answers with a status, this does, under CUDA's numbers. What the documentation calls undefined, or what would
show up as a wrong number somewhere else, raises HostCudaError: memory that was freed, is too small, or is of another
kind than a copy says; areas that overlap; pageable memory in an asynchronous copy; a thread that chose no GPU; host
memory that changed between a copy's call and its execution; what is freed while a graph or a stream still uses it.

A stream is a list of work that runs when somebody synchronizes. While it is captured nothing enters it: the work goes
into a graph, which enters the stream at each launch. Host memory that is still to be written reads as ``POISON``.
"""

from __future__ import annotations

import importlib
import operator
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from runtime.session.device import Bytes
from tests import host_cuda_names as names
from tests.host_cuda_memory import POISON, Area, Block, HostCudaError, HostMemory, as_address, as_size
from tests.host_cuda_names import cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
from tests.host_cuda_state import Graph, HostGpu, Issue, Run, Stream, Work, answers

FIRST_STREAM = 7

_KINDS = {
    cudaMemcpyKind.cudaMemcpyHostToDevice: ("device", "pinned"),
    cudaMemcpyKind.cudaMemcpyDeviceToHost: ("pinned", "device"),
    cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
}
"""Kind of a copy -> kinds of target and source."""


class HostCuda:
    """The double. ``refusals`` maps a function's name to the status that it is to answer with; ``poisoned`` is the
    status that everything answers with. ``calls`` are the names of what was called, in order."""

    def __getattr__(self, name: str) -> Any:
        """Names and numbers of the binding, which are the same for all."""
        return getattr(names, name)

    def __init__(self, *gpus: HostGpu) -> None:
        self.gpus: tuple[HostGpu, ...] = gpus or (HostGpu("00000000-0000-0000-0000-0000000000aa"),)
        self.memory = HostMemory()
        self.streams: dict[int, Stream] = {}
        self.graphs: set[Graph] = set()
        self.executables: set[Graph] = set()
        self.given_up: set[Graph] = set()
        self.current: dict[int, int] = {}
        self.refusals: dict[str, int] = {}
        self.poisoned = 0
        self.calls: list[str] = []
        self.on_upload: Callable[[int, int], None] = lambda _address, _num_bytes: None
        self.on_capture: Callable[[list[Work] | None], None] = lambda _captured: None
        self._handles = iter(range(FIRST_STREAM, 2**31))

    # What tests ask.

    def leftovers(self) -> dict[str, int]:
        """What was made and not given back, by kind; empty when nothing leaks."""
        counts = {
            "device memory": self.memory.count("device"),
            "pinned memory": self.memory.count("pinned"),
            "streams": len(self.streams),
            "graphs": len(self.graphs),
            "executable graphs": len(self.executables),
        }
        return {kind: count for kind, count in counts.items() if count}

    def view(self, address: int, num_bytes: int, kind: str = "device") -> Bytes:
        """The bytes at an address, as a kernel would see them."""
        return self.memory.area(address, kind, width=num_bytes).block.bytes_at(address, num_bytes)

    def push(self, stream: int, issue: Issue, *spans: tuple[int, int]) -> None:
        """Queue a kernel on a stream, which uses device memory at ``spans`` (address, bytes)."""
        blocks = tuple(self.memory.area(address, "device", width=num_bytes).block for address, num_bytes in spans)
        self._enter(self.streams[stream], Work(issue, blocks))

    # Devices.

    @answers(1)
    def cudaGetDeviceCount(self) -> Any:  # noqa: N802
        return (len(self.gpus),) if self.gpus else cudaError_t.cudaErrorNoDevice

    @answers(1)
    def cudaGetDeviceProperties(self, device: int) -> Any:  # noqa: N802
        if not 0 <= operator.index(device) < len(self.gpus):
            return cudaError_t.cudaErrorInvalidDevice
        gpu = self.gpus[device]
        return (
            SimpleNamespace(
                uuid=SimpleNamespace(bytes=uuid.UUID(gpu.uuid).bytes),
                name=gpu.name.encode(),
                major=gpu.capability[0],
                minor=gpu.capability[1],
                totalGlobalMem=gpu.memory_bytes,
                integrated=gpu.integrated,
            ),
        )

    @answers(0)
    def cudaSetDevice(self, device: int) -> Any:  # noqa: N802
        if not 0 <= operator.index(device) < len(self.gpus):
            return cudaError_t.cudaErrorInvalidDevice
        self.current[threading.get_ident()] = device
        return ()

    @answers(2)
    def cudaMemGetInfo(self) -> Any:  # noqa: N802
        ordinal = self._current()
        return self._free_bytes(ordinal), self.gpus[ordinal].memory_bytes

    # Memory.

    @answers(1)
    def cudaMalloc(self, size: int) -> Any:  # noqa: N802
        return self._allocated(size, "device")

    @answers(1)
    def cudaHostAlloc(self, size: int, flags: int) -> Any:  # noqa: N802
        if flags != names.cudaHostAllocDefault:
            return cudaError_t.cudaErrorInvalidValue
        return self._allocated(size, "pinned")

    @answers(0)
    def cudaFree(self, devPtr: int) -> Any:  # noqa: N802, N803
        return self._release(devPtr, "device")

    @answers(0)
    def cudaFreeHost(self, ptr: int) -> Any:  # noqa: N802
        return self._release(ptr, "pinned")

    @answers(0)
    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> Any:  # noqa: N802, N803
        area = self.memory.area(as_address(devPtr), "device", width=as_size(count))
        target = area.block.bytes_at(devPtr, count)
        return self._queue(stream, lambda: lambda: target.fill(operator.index(value)), area.block)

    @answers(0)
    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any) -> Any:  # noqa: N802
        return self._copy(dst, count, src, count, count, 1, kind, stream)

    @answers(0)
    def cudaMemcpy2DAsync(  # noqa: N802
        self,
        dst: int,
        dpitch: int,
        src: int,
        spitch: int,
        width: int,
        height: int,
        kind: cudaMemcpyKind,
        stream: Any,
    ) -> Any:
        return self._copy(dst, dpitch, src, spitch, width, height, kind, stream)

    # Streams and graphs.

    @answers(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:  # noqa: N802
        if flags not in {0, names.cudaStreamNonBlocking}:
            return cudaError_t.cudaErrorInvalidValue
        if not flags:
            raise HostCudaError("a blocking stream waits for the legacy stream, and no library may use that in capture")
        stream = Stream(next(self._handles), self._current())
        self.streams[stream.handle] = stream
        return (stream,)

    @answers(0)
    def cudaStreamDestroy(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.queue:
            raise HostCudaError("a stream was destroyed with work in it")
        if found.captured is not None or any(
            one.stream is found for one in (self.executables - self.given_up) | self.graphs
        ):
            raise HostCudaError("a stream was destroyed before the graphs that were captured from it")
        del self.streams[found.handle]
        return ()

    @answers(0)
    def cudaStreamSynchronize(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.captured is not None:
            return self._invalidated(found)
        while found.queue:
            found.queue.pop(0)()
            if self.poisoned:  # a kernel did it
                found.queue.clear()
        found.queued_blocks.clear()
        return self.poisoned or ()

    @answers(0)
    def cudaStreamBeginCapture(self, stream: Any, mode: cudaStreamCaptureMode) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if not isinstance(mode, cudaStreamCaptureMode):
            raise TypeError(f"a capture mode is wanted, not {mode!r}")
        if mode is cudaStreamCaptureMode.cudaStreamCaptureModeGlobal:
            raise HostCudaError("a global capture is invalidated by what any other thread allocates")
        if found.captured is not None:
            return cudaError_t.cudaErrorIllegalState
        found.captured, found.capturing_thread, found.is_invalidated = [], threading.get_ident(), False
        self.on_capture(found.captured)
        return ()

    @answers(1)
    def cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if found.captured is None:
            return cudaError_t.cudaErrorIllegalState
        if found.capturing_thread != threading.get_ident():
            return cudaError_t.cudaErrorStreamCaptureWrongThread
        work, found.captured = found.captured, None
        self.on_capture(None)
        if found.is_invalidated:
            return cudaError_t.cudaErrorStreamCaptureInvalidated
        graph = Graph(work, found)
        self.graphs.add(graph)
        return (graph,)

    @answers(1)
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:  # noqa: N802
        if graph not in self.graphs or operator.index(flags):
            return cudaError_t.cudaErrorInvalidValue
        executable = Graph(list(graph.work), graph.stream)
        self.executables.add(executable)
        return (executable,)

    @answers(0)
    def cudaGraphDestroy(self, graph: Any) -> Any:  # noqa: N802
        if graph not in self.graphs:
            return cudaError_t.cudaErrorInvalidValue
        self.graphs.remove(graph)
        return ()

    @answers(0)
    def cudaGraphExecDestroy(self, graphExec: Any) -> Any:  # noqa: N802, N803
        if graphExec not in self.executables:
            return cudaError_t.cudaErrorInvalidValue
        self.executables.remove(graphExec)
        return ()

    @answers(0)
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> Any:  # noqa: N802, N803
        found = self._stream(stream)
        if found is None or graphExec not in self.executables:
            return cudaError_t.cudaErrorInvalidValue
        if found.captured is not None:
            return self._invalidated(found)
        for work in graphExec.work:
            self._enter(found, work)
        return ()

    # What CUDA says of its errors, whatever state it is in.

    def cudaGetErrorName(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802
        return cudaError_t.cudaSuccess, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802
        return cudaError_t.cudaSuccess, f"text of {int(error)}".encode()

    def _current(self) -> int:
        """The calling thread's GPU, which is CUDA's first for a thread that never chose."""
        chosen = self.current.get(threading.get_ident())
        if chosen is None:
            raise HostCudaError("this thread chose no GPU; CUDA would take its first")
        return chosen

    def _free_bytes(self, ordinal: int) -> int:
        gpu = self.gpus[ordinal]
        return gpu.memory_bytes - gpu.used_bytes - self.memory.used_bytes(ordinal)

    def _allocated(self, size: int, kind: str) -> Any:
        ordinal = self._current()
        if capturing := self._captured_here():
            return self._invalidated(capturing)
        if as_size(size) == 0:
            raise HostCudaError("CUDA gives no address for 0 bytes")
        if kind == "device" and size > self._free_bytes(ordinal):
            return cudaError_t.cudaErrorMemoryAllocation
        return (self.memory.allocate(size, kind, ordinal).base,)

    def _release(self, address: int, kind: str) -> Any:
        self._current()
        if capturing := self._captured_here():
            return self._invalidated(capturing)
        block = self.memory.block_to_free(as_address(address), kind)
        if any(block in stream.queued_blocks for stream in self.streams.values()):
            raise HostCudaError(f"{kind} memory was freed while work in a stream uses it")
        if any(block in work.blocks for graph in self.executables - self.given_up for work in graph.work):
            raise HostCudaError(f"{kind} memory was freed before a graph that uses it")
        self.memory.free(block)
        return ()

    def _copy(
        self, dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: Any, stream: Any
    ) -> Any:
        if not isinstance(kind, cudaMemcpyKind):
            raise TypeError(f"a kind of copy is wanted, not {kind!r}")
        if kind not in _KINDS:
            raise HostCudaError(f"{kind.name} leaves it to CUDA to find out where memory lies")
        if as_size(width) > min(as_size(dpitch), as_size(spitch)):
            return cudaError_t.cudaErrorInvalidPitchValue
        into, out_of = _KINDS[kind]
        found = self._stream(stream)
        is_pageable = any(
            not self.memory.is_known(at) for at, wanted in ((dst, into), (src, out_of)) if wanted == "pinned"
        )
        if found is not None and found.captured is not None and is_pageable:
            return self._invalidated(found)
        target = self.memory.area(as_address(dst), into, width=width, pitch=dpitch, height=as_size(height))
        source = self.memory.area(as_address(src), out_of, width=width, pitch=spitch, height=height)
        if target.overlaps(source):
            raise HostCudaError("the areas of a copy overlap")
        return self._queue(stream, self._copying(target, source), target.block, source.block)

    def _copying(self, target: Area, source: Area) -> Issue:
        def issue() -> Run:
            before = source.rows.copy() if source.block.kind == "pinned" else None
            if target.block.kind == "pinned":
                target.rows[:] = POISON

            def run() -> None:
                if before is not None and not (before == source.rows).all():
                    raise HostCudaError("host memory changed between the call of a copy and its execution")
                target.rows[:] = source.rows
                if before is not None:
                    self.on_upload(target.address, target.num_bytes)

            return run

        return issue

    def _queue(self, stream: Any, issue: Issue, *blocks: Block) -> Any:
        found = self._stream(stream)
        if found is None:
            return cudaError_t.cudaErrorInvalidResourceHandle
        if any(block.kind == "device" and block.ordinal != found.ordinal for block in blocks):
            raise HostCudaError("a stream of one GPU was given memory of another")
        self._enter(found, Work(issue, blocks))
        return ()

    def _enter(self, stream: Stream, work: Work) -> None:
        if stream.captured is not None:
            stream.captured.append(work)
            return
        if freed := [block for block in work.blocks if block.is_freed]:
            raise HostCudaError(f"work uses memory that was freed: {freed[0].base:#x}")
        stream.queue.append(work.issue())
        stream.queued_blocks.update(work.blocks)

    def _stream(self, stream: Any) -> Stream | None:
        """The stream behind a handle, for a thread on its GPU; None if there is none."""
        if not isinstance(stream, Stream | int):
            raise TypeError(f"a stream is wanted, not {stream!r}")
        found = self.streams.get(int(stream))
        if found is not None and self._current() != found.ordinal:
            raise HostCudaError(f"a stream of GPU {found.ordinal} was used by a thread on GPU {self._current()}")
        return found

    def note_refusal(self, name: str, args: tuple[Any, ...]) -> None:
        """A stream is out of capture, and a graph is given up, whatever the end of them was answered with."""
        if name == "cudaStreamEndCapture" and int(args[0]) in self.streams:
            self.streams[int(args[0])].captured = None
            self.on_capture(None)
        if name == "cudaGraphExecDestroy":
            self.given_up.add(args[0])

    def _captured_here(self) -> Stream | None:
        here = threading.get_ident()
        captured = (one for one in self.streams.values() if one.captured is not None and one.capturing_thread == here)
        return next(captured, None)

    def _invalidated(self, stream: Stream) -> Any:
        stream.is_invalidated = True
        return cudaError_t.cudaErrorStreamCaptureUnsupported


@contextmanager
def installed(double: HostCuda) -> Iterator[SimpleNamespace]:
    """``runtime.session.gpu``'s modules over the double: ``cuda_device`` and ``visible_gpus``, imported anew."""
    fresh = ("runtime.session.gpu.visible_gpus", "runtime.session.gpu.cuda_device")
    package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.bindings, bindings.runtime = bindings, double  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        for name in fresh:
            patch.delitem(sys.modules, name, raising=False)
        for name, module in (("cuda", package), ("cuda.bindings", bindings), ("cuda.bindings.runtime", double)):
            patch.setitem(sys.modules, name, module)
        try:
            yield SimpleNamespace(**{name.rpartition(".")[2]: importlib.import_module(name) for name in fresh})
        finally:
            for name in fresh:
                sys.modules.pop(name, None)
