"""``Device`` on an NVIDIA GPU, through ``cuda-python``. Owns one stream and everything allocated on it.

Knows CUDA's runtime API and nothing else. Imported only when a GPU backend was chosen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from runtime.errors import DeviceError
from runtime.session.device import Bytes


def _checked(result: tuple[Any, ...], doing: str) -> Any:  # noqa: ANN401 - cuda-python answers with tuples of anything
    """The value behind a status, or DeviceError. Every function of cuda-python returns (status, values...)."""
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        _, name = cudart.cudaGetErrorName(status)
        _, text = cudart.cudaGetErrorString(status)
        raise DeviceError(f"CUDA failed {doing}: {_text(name)} ({_text(text)}); run 'powertrain doctor'")
    return values[0] if len(values) == 1 else tuple(values)


def _text(raw: bytes | str) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


class CudaRecording:
    """An instantiated CUDA graph. ``open_ones`` is the device's list of those that it must destroy."""

    def __init__(self, executable: Any, stream: Any, open_ones: list[CudaRecording]) -> None:  # noqa: ANN401 - opaque
        self._executable, self._stream, self._open_ones = executable, stream, open_ones
        open_ones.append(self)

    def launch(self) -> None:
        """Queue the graph."""
        _checked(cudart.cudaGraphLaunch(self._executable, self._stream), "launching a recorded step")

    def close(self) -> None:
        """See ``Recording.close``. Destroys the graph."""
        if self in self._open_ones:
            self._open_ones.remove(self)
            cudart.cudaGraphExecDestroy(self._executable)


class CudaDevice:
    """The device with the given index, made current for the calling thread; use it on that thread only."""

    def __init__(self, device_index: int = 0) -> None:
        _checked(cudart.cudaSetDevice(device_index), f"choosing GPU {device_index}")
        flags = cudart.cudaStreamNonBlocking
        self._stream = _checked(cudart.cudaStreamCreateWithFlags(flags), "making a stream")
        self._addresses: list[int] = []
        self._pinned: list[int] = []
        self._recordings: list[CudaRecording] = []

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream)

    def allocate(self, num_bytes: int) -> int:
        """See ``Device.allocate``."""
        address = int(_checked(cudart.cudaMalloc(max(1, num_bytes)), f"allocating {num_bytes:,} bytes on the GPU"))
        self._addresses.append(address)
        _checked(cudart.cudaMemsetAsync(address, 0, num_bytes, self._stream), "clearing memory")
        return address

    def pinned(self, num_bytes: int) -> Bytes:
        """See ``Device.pinned``."""
        flags = cudart.cudaHostAllocDefault
        address = int(_checked(cudart.cudaHostAlloc(max(1, num_bytes), flags), f"pinning {num_bytes:,} bytes"))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def upload(self, target: int, source: Bytes) -> None:
        """See ``Device.upload``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        done = cudart.cudaMemcpyAsync(target, source.ctypes.data, source.nbytes, kind, self._stream)
        _checked(done, "copying to the GPU")

    def download(self, target: Bytes, source: int) -> None:
        """See ``Device.download``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        done = cudart.cudaMemcpyAsync(target.ctypes.data, source, target.nbytes, kind, self._stream)
        _checked(done, "copying from the GPU")

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        """See ``Device.copy_rows``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        done = cudart.cudaMemcpy2DAsync(
            target, pitch_bytes, source, pitch_bytes, row_bytes, num_rows, kind, self._stream
        )
        _checked(done, "copying cache rows")

    def record(self, work: Callable[[], None]) -> CudaRecording:
        """See ``Device.record``. Captures the stream into a CUDA graph."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(cudart.cudaStreamBeginCapture(self._stream, mode), "recording a step")
        try:
            work()
        finally:  # a stream left in capture mode would refuse everything after
            ended = cudart.cudaStreamEndCapture(self._stream)
        graph = _checked(ended, "recording a step")
        executable = _checked(cudart.cudaGraphInstantiate(graph, 0), "preparing a recorded step")
        cudart.cudaGraphDestroy(graph)
        return CudaRecording(executable, self._stream, self._recordings)

    def synchronize(self) -> None:
        """See ``Device.synchronize``."""
        _checked(cudart.cudaStreamSynchronize(self._stream), "running a step")

    def close(self) -> None:
        """Free everything; what fails here has failed before and was reported then."""
        cudart.cudaStreamSynchronize(self._stream)
        for recording in [*self._recordings]:
            recording.close()
        for address in self._addresses:
            cudart.cudaFree(address)
        for address in self._pinned:
            cudart.cudaFreeHost(address)
        cudart.cudaStreamDestroy(self._stream)
        self._recordings, self._addresses, self._pinned = [], [], []
