"""Opening a graph in ONNX Runtime and running it with bound inputs and outputs, failures told in our own classes.

Owns the list of what ONNX Runtime raises: its exceptions share no base below ``Exception``, so whoever calls it could
name them only one by one. Knows no graph.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as status

from runtime.errors import DeviceError, DeviceOutOfMemory, PackageError
from runtime.session.cuda_errors import LOST, device_failure

_FAILURES = (
    status.EPFail,
    status.EngineError,
    status.Fail,
    status.InvalidArgument,
    status.NotImplemented,
    status.RuntimeException,
    RuntimeError,  # what its binding makes of any other C++ exception; of std::bad_alloc it makes MemoryError
)
_UNUSABLE = (*_FAILURES, status.InvalidGraph, status.InvalidProtobuf, status.NoModel, status.NoSuchFile)
_MAX_REASON_CHARS = 300
_CUDA_FAILURE = re.compile(r"CUDA failure (\d+):")
_NO_MEMORY = (
    "Failed to allocate memory for requested buffer of size",  # BFCArena::AllocateRawInternal, of every device
    "is smaller than requested bytes of",  # BFCArena::Extend, at the arena's limit
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def open_graph(graph: Path, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
    """A session on a package's graph. Raises PackageError with ONNX Runtime's reason, without the machine's paths.

    ONNX Runtime refuses external data that an absolute path, ``..`` or a link takes out of the graph's folder.
    """
    try:
        return ort.InferenceSession(str(graph), options, providers=providers)
    except _UNUSABLE as error:
        root = graph.parent.parent
        reason = " ".join(str(error).split()).replace(str(root.parent.resolve()), "").replace(str(root.parent), "")
        shown = reason[:_MAX_REASON_CHARS]
        raise PackageError(
            f"{root.name}: ONNX Runtime cannot load {graph.name} ({shown}); rebuild the package"
        ) from error


def run_bound(session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions | None = None) -> None:
    """Run ``session`` on what ``binding`` holds. Raises DeviceError, as what the text of the failure tells, or
    MemoryError."""
    try:
        session.run_with_iobinding(binding, options)
    except _FAILURES as error:
        raise run_failure(str(error)) from error


def run_failure(text: str) -> DeviceError:
    """The error to raise for what ONNX Runtime said of a failed run.

    Its GPU providers put CUDA's own number into the text (``CudaCall`` in onnxruntime/core/providers/cuda), also where
    a failure was the consequence of one before: cuBLAS and cuDNN fail with numbers of their own when the context is
    poisoned, and CUDA tells at the next call. Its allocators, on a CPU too, name the size that they did not get.
    """
    said = f"ONNX Runtime failed: {text}"
    numbers = [int(found) for found in _CUDA_FAILURE.findall(text)]
    for number in numbers:
        if number in LOST:
            return device_failure(number, said)
    if any(sign in text for sign in _NO_MEMORY):
        return DeviceOutOfMemory(said)
    return device_failure(numbers[0], said) if numbers else DeviceError(said)
