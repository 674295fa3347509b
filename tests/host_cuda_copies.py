"""HostCuda's memory: allocated, freed, cleared and copied, by rules that CUDA states and does not check."""

from __future__ import annotations

import operator
from typing import Any

from tests import host_cuda_names as names
from tests.host_cuda_base import HostCudaBase
from tests.host_cuda_memory import POISON, Area, HostCudaError, as_address, as_size
from tests.host_cuda_names import cudaError_t, cudaMemcpyKind
from tests.host_cuda_state import Issue, Run, answers

_KINDS = {
    cudaMemcpyKind.cudaMemcpyHostToDevice: ("device", "pinned"),
    cudaMemcpyKind.cudaMemcpyDeviceToHost: ("pinned", "device"),
    cudaMemcpyKind.cudaMemcpyDeviceToDevice: ("device", "device"),
}
"""Kind of a copy -> kinds of target and source."""


class MemoryCalls(HostCudaBase):
    """The functions of ``cuda.bindings.runtime`` about memory."""

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
