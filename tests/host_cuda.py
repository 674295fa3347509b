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
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests import host_cuda_names as names
from tests.host_cuda_copies import MemoryCalls
from tests.host_cuda_names import cudaError_t
from tests.host_cuda_state import answers
from tests.host_cuda_streams import StreamCalls


class HostCuda(MemoryCalls, StreamCalls):
    """The double: memory, streams and graphs from its bases, and what is about GPUs and errors."""

    def __getattr__(self, name: str) -> Any:
        """Names and numbers of the binding, which are the same for all."""
        return getattr(names, name)

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

    # What CUDA says of its errors, whatever state it is in.

    def cudaGetErrorName(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802
        return cudaError_t.cudaSuccess, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:  # noqa: N802
        return cudaError_t.cudaSuccess, f"text of {int(error)}".encode()


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
