"""Tries one backend's libraries and prints what it found as JSON. Run as a process of its own, since a broken GPU
library may take the process down with it: ``python -m runtime.loading.backend_probe tensorrt_rtx``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import msgspec

_IDENTITY_MODEL = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02"
    "080142040a001011"
)
"""ONNX: y = Identity(x), float32 [1], opset 17."""


class ProbeResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``problem`` is empty when the backend's libraries work; ``fix`` is the line that helps."""

    version: str = ""
    problem: str = ""
    fix: str = ""


def probe(name: str) -> ProbeResult:
    """Import and start what a backend needs, by its name with underscores."""
    if name == "ort_tensorrt_rtx":
        return _probe_plugin()
    provider = {"cuda": "CUDAExecutionProvider", "ort_tensorrt": "TensorrtExecutionProvider"}.get(name)
    return _probe_onnxruntime(provider) if provider else _probe_tensorrt(name)


def _probe_tensorrt(name: str) -> ProbeResult:
    extra = name.replace("_", "-")
    fix = f"pip install 'powertrain[{extra}]'"
    try:
        trt: Any = importlib.import_module(name)
        cudart: Any = importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError, RuntimeError) as error:
        return ProbeResult(problem=_one_line(error), fix=fix)
    version = str(trt.__version__)
    status, count = cudart.cudaGetDeviceCount()
    if int(status) != 0 or not count:
        fix = "install a driver that is new enough for this version of CUDA"
        return ProbeResult(version, f"CUDA finds no GPU (status {int(status)})", fix)
    if trt.Runtime(trt.Logger(trt.Logger.ERROR)) is None:
        return ProbeResult(version, f"{name} does not start", fix)
    return ProbeResult(version)


def _probe_onnxruntime(provider: str) -> ProbeResult:
    fix = "pip uninstall -y onnxruntime && pip install 'powertrain[gpu]'"
    try:
        ort: Any = importlib.import_module("onnxruntime")
    except (ImportError, OSError, RuntimeError) as error:
        return ProbeResult(problem=_one_line(error), fix=fix)
    version = str(ort.__version__)
    if provider not in ort.get_available_providers():
        return ProbeResult(version, f"onnxruntime {version} was built without {provider}", fix)
    if provider not in ort.InferenceSession(_IDENTITY_MODEL, providers=[provider]).get_providers():
        fix = f"pip install 'onnxruntime-gpu[cuda,cudnn]=={version}'"
        return ProbeResult(version, f"onnxruntime {version} cannot load the libraries of its {provider}", fix)
    return ProbeResult(version)


def _probe_plugin() -> ProbeResult:
    try:
        ort: Any = importlib.import_module("onnxruntime")
        plugin: Any = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    except (ImportError, OSError, RuntimeError) as error:
        return ProbeResult(problem=_one_line(error), fix="pip install onnxruntime-ep-nv-tensorrt-rtx-cu13")
    version = str(plugin.__version__)
    try:
        ort.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises types of its own
        return ProbeResult(version, _one_line(error), "install NVIDIA's driver: the plug-in needs libcuda.so.1")
    if not any(device.ep_name == plugin.get_ep_name() for device in ort.get_ep_devices()):
        fix = "use a GPU of compute capability 8.6 or newer, with a driver for CUDA 13"
        return ProbeResult(version, "the plug-in finds no GPU that it supports", fix)
    return ProbeResult(version)


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _main(name: str) -> ProbeResult:
    try:
        return probe(name)
    except Exception as error:  # noqa: BLE001 - libraries raise types of their own; all of them mean the same here
        return ProbeResult(problem=_one_line(error), fix="install its libraries again")


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_main(sys.argv[1])).decode() + "\n")
