"""Opening a graph in ONNX Runtime and running it with bound inputs and outputs, failures told in our own classes.

Owns the list of what ONNX Runtime raises: its exceptions share no base below ``Exception``, so whoever calls it could
name them only one by one. Knows no graph.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as status

from runtime.errors import DeviceError, PackageError

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
    """Run ``session`` on what ``binding`` holds. Raises DeviceError or MemoryError."""
    try:
        session.run_with_iobinding(binding, options)
    except _FAILURES as error:
        raise DeviceError(f"ONNX Runtime failed: {error}") from error
