"""Tries one backend's libraries and prints what it found as JSON. Run as a process of its own, since a broken GPU
library may take the process down with it: ``python -m runtime.loading.backend_probe tensorrt_rtx``.

Opens what the loader opens, through the same function (``runtime.session.gpu.libraries``), and starts each library.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import BackendError
from runtime.install import backend_line
from runtime.session.gpu.libraries import NEEDS, open_libraries, plugin_devices

_IDENTITY_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02"
    "080142040a001011"
)
"""ONNX: y = Identity(x), float32 [1], opset 17."""
_PROVIDERS = {
    "cuda": ("CUDAExecutionProvider", "libonnxruntime_providers_cuda.so"),
    "ort_tensorrt": ("TensorrtExecutionProvider", "libonnxruntime_providers_tensorrt.so"),
}
_DRIVER = "install a driver for CUDA 13 or newer: nvidia-smi shows the version that the driver has"
_ABSENT = re.compile(r"([^/\s]+\.so[.\d]*): cannot open shared object file")


class ProbeResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``problem`` is empty when the backend's libraries work; ``fix`` is the line that helps."""

    version: str = ""
    problem: str = ""
    fix: str = ""


def probe(name: str) -> ProbeResult:
    """Import, open and start what the loader will, by the backend's name with underscores.

    Libraries that fail in ways of their own raise whatever they raise.
    """
    fix = backend_line(NEEDS[name].extra)
    version = _version(name)
    if name in _PROVIDERS and version:
        ort: Any = importlib.import_module("onnxruntime")
        provider, _ = _PROVIDERS[name]
        if provider not in ort.get_available_providers():
            return ProbeResult(version, f"onnxruntime {version} was built without {provider}", fix)
    try:
        open_libraries(name)
    except BackendError as error:
        return ProbeResult(version, str(error), fix)
    problem = _count_gpus()
    if problem:
        return ProbeResult(version, problem, _DRIVER)
    if name in _PROVIDERS:
        return _probe_provider(name, version, fix)
    return _probe_plugin(version) if name == "ort_tensorrt_rtx" else _probe_tensorrt(name, version, fix)


def _version(name: str) -> str:
    """Version of the library that runs the model; empty where it is not installed."""
    module = {"cuda": "onnxruntime", "ort_tensorrt": "onnxruntime", "ort_tensorrt_rtx": NEEDS[name].modules[-1]}
    try:
        return str(importlib.import_module(module.get(name, name)).__version__)
    except (ImportError, OSError, RuntimeError):  # what ails it is open_libraries' to say
        return ""


def _count_gpus() -> str:
    """What is wrong if CUDA finds no GPU."""
    cudart: Any = importlib.import_module("cuda.bindings.runtime")
    try:
        status, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # no libcuda.so.1 at all
        return _one_line(error)
    return "" if int(status) == 0 and count else f"CUDA finds no GPU (status {int(status)})"


def _probe_tensorrt(name: str, version: str, fix: str) -> ProbeResult:
    trt: Any = importlib.import_module(name)
    if trt.Runtime(trt.Logger(trt.Logger.ERROR)) is None:
        return ProbeResult(version, f"{name} does not start", fix)
    return ProbeResult(version)


def _probe_provider(name: str, version: str, fix: str) -> ProbeResult:
    ort: Any = importlib.import_module("onnxruntime")
    provider, library = _PROVIDERS[name]
    if provider in ort.InferenceSession(_IDENTITY_MODEL, providers=[provider]).get_providers():
        return ProbeResult(version)
    absent = _absent_library(Path(str(ort.__file__)).parent / "capi" / library)
    why = f": {absent} is missing" if absent else ""
    return ProbeResult(version, f"onnxruntime {version} cannot load the libraries of its {provider}{why}", fix)


def _absent_library(path: Path) -> str:
    """The library that keeps another from being opened; empty where the reason is a different one.

    ONNX Runtime tells its reason on its own log alone. The system's loader looks for libraries before it looks for
    symbols, so it says the same again, though the file cannot be opened without ONNX Runtime around it.
    """
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        found = _ABSENT.match(str(error))
        return found[1] if found else ""
    return ""


def _probe_plugin(version: str) -> ProbeResult:
    try:
        _, devices = plugin_devices()
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises types of its own
        return ProbeResult(version, _one_line(error), _DRIVER)
    if not devices:
        fix = "use a GPU of compute capability 8.6 or newer, with a driver for CUDA 13"
        return ProbeResult(version, "the plug-in finds no GPU that it supports", fix)
    return ProbeResult(version)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _main(name: str) -> ProbeResult:
    try:
        return probe(name)
    except Exception as error:  # noqa: BLE001 - libraries raise types of their own; all of them mean the same here
        return ProbeResult(
            problem=_one_line(error), fix=f"install its libraries again: {backend_line(NEEDS[name].extra)}"
        )


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_main(sys.argv[1])).decode() + "\n")
