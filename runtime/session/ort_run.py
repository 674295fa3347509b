"""One run of an ONNX Runtime session with bound inputs and outputs, its failures told as ``DeviceError``.

Owns the list of what ONNX Runtime raises: its exceptions share no base below ``Exception``, so whoever calls it could
name them only one by one. Knows no graph.
"""

from __future__ import annotations

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as status

from runtime.errors import DeviceError

_FAILURES = (
    status.EPFail,
    status.EngineError,
    status.Fail,
    status.InvalidArgument,
    status.NotImplemented,
    status.RuntimeException,
    RuntimeError,  # what its binding makes of any other C++ exception; of std::bad_alloc it makes MemoryError
)


def run_bound(session: ort.InferenceSession, binding: ort.IOBinding, options: ort.RunOptions | None = None) -> None:
    """Run ``session`` on what ``binding`` holds. Raises DeviceError or MemoryError."""
    try:
        session.run_with_iobinding(binding, options)
    except _FAILURES as error:
        raise DeviceError(f"ONNX Runtime failed: {error}") from error
