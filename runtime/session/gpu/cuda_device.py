"""``Device`` on an NVIDIA GPU, through ``cuda-python``. Owns one stream and everything allocated on it.

Knows CUDA's runtime API and nothing else. Imported only when a GPU backend was chosen.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime as cudart

from runtime.errors import DeviceError, DeviceLost, RecordingRefused
from runtime.session.cuda_errors import LOST
from runtime.session.device import Bytes
from runtime.session.gpu.visible_gpus import checked, find_visible, memory_bytes, use

_LOG = logging.getLogger("powertrain.backend")


class CudaRecording:
    """An instantiated CUDA graph. ``open_ones`` is the device's list of those that it must destroy."""

    def __init__(self, executable: Any, stream: Any, open_ones: list[CudaRecording]) -> None:  # noqa: ANN401 - opaque
        self.executable, self._stream, self._open_ones = executable, stream, open_ones
        open_ones.append(self)

    def launch(self) -> None:
        """Queue the graph. Raises DeviceError."""
        checked(cudart.cudaGraphLaunch(self.executable, self._stream), "launching a recorded step")

    def close(self) -> None:
        """See ``Recording.close``. Destroys the graph. Raises DeviceError."""
        if self in self._open_ones:
            self._open_ones.remove(self)
            checked(cudart.cudaGraphExecDestroy(self.executable), "dropping a recorded step")


class CudaMark:
    """An event of CUDA's on a device's stream."""

    def __init__(self, event: Any, stream: Any) -> None:  # noqa: ANN401 - handles are opaque
        self._event, self._stream = event, stream

    def set(self) -> None:
        """See ``Mark.set``."""
        checked(cudart.cudaEventRecord(self._event, self._stream), "marking a step")

    def wait(self) -> None:
        """See ``Mark.wait``. What a step failed at is told here."""
        checked(cudart.cudaEventSynchronize(self._event), "running a step")


class CudaDevice:
    """The GPU with the given UUID, made current for the calling thread; use it on that thread only.

    ``uuid`` as nvidia-smi shows it. ``ordinal`` is the GPU's number in CUDA, for libraries that ask for one.
    """

    def __init__(self, uuid: str) -> None:
        self._gpu = find_visible(uuid)
        use(self._gpu)
        self._addresses: list[int] = []
        self._pinned: list[int] = []
        self._recordings: list[CudaRecording] = []
        self._events: list[Any] = []
        self._closed = False
        flags = cudart.cudaStreamNonBlocking
        self._stream = checked(cudart.cudaStreamCreateWithFlags(flags), "making a stream")

    @property
    def ordinal(self) -> int:
        """The GPU's number in CUDA's order."""
        return self._gpu.ordinal

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream)

    def memory_bytes(self) -> tuple[int, int]:
        """See ``Device.memory_bytes``."""
        return memory_bytes(self._gpu)

    def allocate(self, num_bytes: int) -> int:
        """See ``Device.allocate``."""
        address = int(checked(cudart.cudaMalloc(max(1, num_bytes)), f"allocating {num_bytes:,} bytes on the GPU"))
        self._addresses.append(address)
        checked(cudart.cudaMemsetAsync(address, 0, num_bytes, self._stream), "clearing memory")
        return address

    def pinned(self, num_bytes: int) -> Bytes:
        """See ``Device.pinned``."""
        flags = cudart.cudaHostAllocDefault
        address = int(checked(cudart.cudaHostAlloc(max(1, num_bytes), flags), f"pinning {num_bytes:,} bytes"))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def upload(self, target: int, source: Bytes) -> None:
        """See ``Device.upload``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        done = cudart.cudaMemcpyAsync(target, source.ctypes.data, source.nbytes, kind, self._stream)
        checked(done, "copying to the GPU")

    def download(self, target: Bytes, source: int) -> None:
        """See ``Device.download``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        done = cudart.cudaMemcpyAsync(target.ctypes.data, source, target.nbytes, kind, self._stream)
        checked(done, "copying from the GPU")

    def copy_rows(self, target: int, source: int, row_bytes: int, pitch_bytes: int, num_rows: int) -> None:
        """See ``Device.copy_rows``."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        done = cudart.cudaMemcpy2DAsync(
            target, pitch_bytes, source, pitch_bytes, row_bytes, num_rows, kind, self._stream
        )
        checked(done, "copying cache rows")

    def widen(self, target: int, source: int, count: int) -> None:
        """See ``Device.widen``: the low halves are written, the high ones of numbers that are none negative are 0."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        done = cudart.cudaMemcpy2DAsync(target, 8, source, 4, 4, count, kind, self._stream)
        checked(done, "copying tokens")

    def mark(self) -> CudaMark:
        """See ``Device.mark``."""
        event = checked(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming), "making an event")
        self._events.append(event)
        return CudaMark(event, self._stream)

    def record(self, work: Callable[[], None]) -> CudaRecording:
        """See ``Device.record``. Captures the stream into a CUDA graph."""
        try:
            return self._instantiated(self._captured(work))
        except (DeviceLost, RecordingRefused):
            raise
        except DeviceError as error:
            raise RecordingRefused(str(error)) from error

    def _captured(self, work: Callable[[], None]) -> Any:  # noqa: ANN401 - handles are opaque
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cudart.cudaStreamBeginCapture(self._stream, mode), "recording a step")
        try:
            work()
        except BaseException:
            self._drop_capture()
            raise
        return checked(cudart.cudaStreamEndCapture(self._stream), "recording a step")

    def _drop_capture(self) -> None:
        """Take the stream out of capture, which would refuse everything after. Raises DeviceLost if that is why."""
        status, graph = cudart.cudaStreamEndCapture(self._stream)
        if int(status) in LOST:
            checked((status,), "recording a step")
        if not int(status):
            checked(cudart.cudaGraphDestroy(graph), "dropping a step that was not recorded")

    def _instantiated(self, graph: Any) -> CudaRecording:  # noqa: ANN401 - handles are opaque
        try:
            executable = checked(cudart.cudaGraphInstantiate(graph, 0), "preparing a recorded step")
            recording = CudaRecording(executable, self._stream, self._recordings)
        finally:
            destroyed = cudart.cudaGraphDestroy(graph)
        checked(destroyed, "preparing a recorded step")
        return recording

    def synchronize(self) -> None:
        """See ``Device.synchronize``."""
        checked(cudart.cudaStreamSynchronize(self._stream), "running a step")

    def close(self) -> None:
        """See ``Device.close``: recordings before the memory that they point to, the stream last."""
        if self._closed:
            return
        self._closed = True
        steps: list[tuple[Callable[[Any], tuple[Any, ...]], Any, str]] = [
            (cudart.cudaStreamSynchronize, self._stream, "waiting for the last step"),
            *((cudart.cudaGraphExecDestroy, one.executable, "dropping a recorded step") for one in self._recordings),
            *((cudart.cudaEventDestroy, event, "dropping an event") for event in self._events),
            *((cudart.cudaFree, address, "freeing memory") for address in self._addresses),
            *((cudart.cudaFreeHost, address, "freeing pinned memory") for address in self._pinned),
            (cudart.cudaStreamDestroy, self._stream, "closing the stream"),
        ]
        refusals = []
        for call, handle, doing in steps:  # what is refused must not keep the rest from being freed
            try:
                checked(call(handle), doing)
            except DeviceError as error:
                refusals.append(str(error))
        if refusals:
            _LOG.warning("%d calls failed as the GPU was closed; the first: %s", len(refusals), refusals[0])
        self._recordings.clear()
        self._events.clear()
        self._addresses, self._pinned = [], []
