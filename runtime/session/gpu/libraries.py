"""Opens the libraries of a GPU backend, in the order in which they need each other: the probe's way, and the loader's.

The wheels of ONNX Runtime and of its plug-in carry no path (RUNPATH) to what they need from NVIDIA's wheels, so that is
opened by name before them; a library that is open already is found by whoever needs it. What is opened for which
backend stands here alone, and ``tests/test_wheels.py`` proves that each extra's wheels hold it. Starts no device, reads
no model.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import io
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.errors import BackendError

CUDA_LIBRARIES = {
    "cudart": "libcudart.so.13",
    "nvrtc": "libnvrtc.so.13",
    "cublasLt": "libcublasLt.so.13",
    "cublas": "libcublas.so.13",
    "curand": "libcurand.so.10",
    "cudnn": "libcudnn.so.9",
}
"""CUDA 13's libraries: the name that ``cuda-pathfinder`` has for each, and the name that others need it by."""

WHEELS = {
    "cuda.bindings.runtime": "cuda-bindings",
    "onnxruntime": "onnxruntime-gpu",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "libcudart.so.13": "nvidia-cuda-runtime",
    "libnvrtc.so.13": "nvidia-cuda-nvrtc",
    "libcublasLt.so.13": "nvidia-cublas",
    "libcublas.so.13": "nvidia-cublas",
    "libcurand.so.10": "nvidia-curand",
    "libcudnn.so.9": "nvidia-cudnn-cu13",
}
"""Which wheel brings a module or a library."""

_NVINFER = re.compile(rb"libnvinfer\.so\.\d+")
_ORT_TENSORRT = "libonnxruntime_providers_tensorrt.so"
_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a backend opens. ``extra`` of powertrain brings it; ``modules`` and ``libraries`` (keys of
    ``CUDA_LIBRARIES``) must be there, ``optional`` ones are opened where they are."""

    extra: str
    modules: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_BINDINGS = "cuda.bindings.runtime"
_CUDA = ("cudart", "cublasLt", "cublas", "curand")
NEEDS = {
    "cuda": Needs("gpu", (_BINDINGS, "onnxruntime"), _CUDA, ("nvrtc", "cudnn")),
    "tensorrt": Needs("tensorrt", (_BINDINGS, "tensorrt"), optional=("cudart",)),
    "tensorrt_rtx": Needs("tensorrt-rtx", (_BINDINGS, "tensorrt_rtx")),
    "ort_tensorrt": Needs("ort-tensorrt", (_BINDINGS, "onnxruntime"), (*_CUDA, "cudnn"), ("nvrtc",)),
    "ort_tensorrt_rtx": Needs("ort-tensorrt-rtx", (_BINDINGS, "onnxruntime", _PLUGIN)),
}
"""By the name of ``runtime.loading.backend.Backend.module``."""


def open_libraries(backend: str) -> None:
    """Import and open what ``backend`` (a key of ``NEEDS``) runs on. A second call costs nothing.

    Raises BackendError with everything that is missing, or with what the first broken one says.
    """
    needs = NEEDS[backend]
    # TensorRT's bindings find the libraries of their own wheel, but CUDA's only where those are open already.
    absent = [CUDA_LIBRARIES[name] for name in needs.libraries if not _open_cuda(name)]
    for name in needs.optional:
        _open_cuda(name)
    modules = {name: _import(name) for name in needs.modules}
    absent = [name for name, module in modules.items() if module is None] + absent
    if absent:
        raise BackendError(_missing(absent))
    if backend in {"cuda", "ort_tensorrt"}:
        _preload(modules["onnxruntime"])
    if backend == "ort_tensorrt":
        _open_tensorrt_of(modules["onnxruntime"])
    if backend == "ort_tensorrt_rtx":
        _open_cudart_of(modules[_PLUGIN])


def plugin_devices() -> tuple[str, list[Any]]:
    """Name of TensorRT for RTX's provider, and ONNX Runtime's devices of it, none where no GPU is supported.

    Registers the plug-in's library if that has not been done; call ``open_libraries`` first. What ONNX Runtime raises
    where the library does not load is of types of its own.
    """
    ort: Any = importlib.import_module("onnxruntime")
    plugin: Any = importlib.import_module(_PLUGIN)
    name = plugin.get_ep_name()
    if not any(device.ep_name == name for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(name, plugin.get_library_path())
    return name, [device for device in ort.get_ep_devices() if device.ep_name == name]


def _missing(names: list[str]) -> str:
    listed = ", ".join(f"{name} (in {WHEELS[name]})" for name in names)
    return f"{listed} {'is' if len(names) == 1 else 'are'} missing"


def _import(name: str) -> Any:  # noqa: ANN401 - a module of anything
    """The module; None where no such distribution is installed. What it raises because it is broken is passed on."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise BackendError(f"{name} does not load: {error}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"{name} does not load: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _open_cuda(name: str) -> bool:
    """Whether one of CUDA 13's libraries is open now: from a wheel, a conda environment, the system, CUDA's folder."""
    wanted = CUDA_LIBRARIES[name]
    try:
        pathfinder: Any = importlib.import_module("cuda.pathfinder")
    except ImportError:
        return _open(wanted)
    try:
        found = pathfinder.load_nvidia_dynamic_lib(name).abs_path
    except (pathfinder.DynamicLibNotFoundError, OSError, RuntimeError):
        return _open(wanted)
    return wanted in str(found) or _open(wanted)  # another CUDA's has another name, and serves nobody here


def _open(library: str) -> bool:
    """Whether the system's loader finds a library by this name, or by this path."""
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _preload(ort: ModuleType) -> None:
    """Let ONNX Runtime open what else its build wants. It prints what it misses, most of which nobody here needs."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def _open_tensorrt_of(ort: ModuleType) -> None:
    """Open the TensorRT that this build of ONNX Runtime was linked with, which is not the newest one."""
    provider = Path(str(ort.__file__)).parent / "capi" / _ORT_TENSORRT
    linked = _NVINFER.search(provider.read_bytes()) if provider.is_file() else None
    if linked is None:
        return  # a build without the provider, which says so itself
    _import("tensorrt_libs")  # opens every library beside it
    wanted = linked[0].decode()
    if not _open(wanted):
        major = wanted.rpartition(".")[2]
        where = f"in tensorrt-cu13-libs of version {major}"
        raise BackendError(f"{wanted} ({where}) is missing: ONNX Runtime's provider is linked with TensorRT {major}")


def _open_cudart_of(plugin: ModuleType) -> None:
    """Open the CUDA runtime that lies in the plug-in's folder under a name that the system's loader does not look for.

    Without it, whatever other one there is. Raises BackendError where there is none.
    """
    beside = sorted(Path(str(plugin.__file__)).parent.glob("libcudart.so.*"))
    if not (any(_open(str(path)) for path in beside) or _open_cuda("cudart")):
        raise BackendError(_missing([CUDA_LIBRARIES["cudart"]]))
