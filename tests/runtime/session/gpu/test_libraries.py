"""What is opened for a backend, in which order, and what is said of what is missing. The wheels are doubles."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime.errors import BackendError
from runtime.session.gpu.libraries import CUDA_LIBRARIES, NEEDS, open_libraries, plugin_devices

CUDA_PROVIDER_NEEDS = ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"]


class NotFound(RuntimeError):
    """What ``cuda-pathfinder`` raises."""


class Machine:
    """Which modules and libraries there are, and in which order they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder = monkeypatch, folder
        self.libraries: dict[str, str] = {}  # what the system's loader finds
        self.wheels: dict[str, str] = {}  # what pathfinder finds: name -> path
        self.opened: list[str] = []
        monkeypatch.setattr(ctypes, "CDLL", self._open)
        pathfinder = ModuleType("cuda.pathfinder")
        vars(pathfinder).update(DynamicLibNotFoundError=NotFound, load_nvidia_dynamic_lib=self._load)
        self.set("cuda.pathfinder", pathfinder)
        for needs in NEEDS.values():
            for name in needs.modules:
                self.set(name, None)
        self.set("tensorrt_libs", None)
        self.set("cuda.bindings.runtime", ModuleType("cuda.bindings.runtime"))

    def set(self, name: str, module: ModuleType | None) -> None:
        """None: no such distribution is installed."""
        self.patch.setitem(sys.modules, name, module)

    def _open(self, name: str, mode: int = 0) -> object:
        if name not in self.libraries:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        assert mode == ctypes.RTLD_GLOBAL  # others must find it
        self.opened.append(name)
        return object()

    def _load(self, name: str) -> Any:
        if name not in self.wheels:
            raise NotFound(name)
        self.opened.append(self.wheels[name].rpartition("/")[2])
        return type("LoadedDL", (), {"abs_path": self.wheels[name]})

    def add_wheels(self, *names: str) -> None:
        self.wheels |= {name: f"/site-packages/nvidia/cu13/lib/{CUDA_LIBRARIES[name]}" for name in names}

    def add_onnxruntime(self, tensorrt: int | None = None) -> None:
        """``onnxruntime-gpu``, whose TensorRT provider is linked with a version."""
        module = ModuleType("onnxruntime")
        module.__file__ = str(self.folder / "onnxruntime" / "__init__.py")
        (self.folder / "onnxruntime" / "capi").mkdir(parents=True)
        if tensorrt is not None:
            library = self.folder / "onnxruntime" / "capi" / "libonnxruntime_providers_tensorrt.so"
            library.write_bytes(b"\x7fELF\0libcudnn.so.9\0libnvinfer.so.%d\0" % tensorrt)

        def preload_dlls() -> None:
            print("Failed to load libcufft.so.12: which nothing here needs")
            self.opened.append("preload_dlls")

        vars(module)["preload_dlls"] = preload_dlls
        self.set("onnxruntime", module)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_cudas_libraries_are_open_before_onnx_runtime_looks_for_them(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.add_wheels("cudart", "nvrtc", "cublasLt", "cublas", "curand")  # cuDNN is optional
    machine.add_onnxruntime()
    open_libraries("cuda")
    assert machine.opened == [*CUDA_PROVIDER_NEEDS, "libnvrtc.so.13", "preload_dlls"]
    assert capsys.readouterr().out == ""  # the probe's answer and the server's output are no place for it


def test_everything_that_is_missing_is_named_at_once(machine: Machine) -> None:
    machine.add_wheels("cudart", "cublas")
    machine.set("cuda.bindings.runtime", None)
    machine.add_onnxruntime()
    with pytest.raises(BackendError) as raised:
        open_libraries("cuda")
    assert str(raised.value) == (
        "cuda.bindings.runtime (in cuda-bindings), libcublasLt.so.13 (in nvidia-cublas), "
        "libcurand.so.10 (in nvidia-curand) are missing"
    )
    machine.set("cuda.bindings.runtime", ModuleType("cuda.bindings.runtime"))
    with pytest.raises(BackendError, match=r"^tensorrt_rtx \(in tensorrt-rtx\) is missing$"):
        open_libraries("tensorrt_rtx")


@pytest.mark.parametrize("has_pathfinder", [True, False])
def test_the_systems_libraries_serve_as_well_and_another_cudas_do_not(machine: Machine, has_pathfinder: bool) -> None:
    machine.wheels = {"cudart": "/usr/local/cuda-12.9/lib64/libcudart.so.12"}
    if not has_pathfinder:
        machine.set("cuda.pathfinder", None)
    machine.libraries = dict.fromkeys(CUDA_PROVIDER_NEEDS[1:], "")
    machine.add_onnxruntime()
    with pytest.raises(BackendError, match=r"^libcudart\.so\.13 \(in nvidia-cuda-runtime\) is missing$"):
        open_libraries("cuda")
    machine.libraries["libcudart.so.13"] = ""
    open_libraries("cuda")
    assert machine.opened[-5:] == [*CUDA_PROVIDER_NEEDS, "preload_dlls"]


def test_a_module_that_is_there_and_broken_says_why(machine: Machine, tmp_path: Path) -> None:
    for name, body, said in (
        ("tensorrt", "import no_such_thing", "No module named 'no_such_thing'"),
        (
            "tensorrt_rtx",
            "raise OSError('libnvinfer.so.11: cannot open\\nsecond line')",
            "libnvinfer.so.11: cannot open",
        ),
    ):
        (tmp_path / f"{name}.py").write_text(body)
        machine.patch.syspath_prepend(str(tmp_path))
        machine.patch.delitem(sys.modules, name)
        with pytest.raises(BackendError) as raised:
            open_libraries(name)
        assert str(raised.value) == f"{name} does not load: {said}"


def test_onnx_runtimes_tensorrt_is_the_one_it_was_linked_with(machine: Machine) -> None:
    machine.add_wheels(*CUDA_LIBRARIES)
    machine.add_onnxruntime(tensorrt=10)
    machine.libraries = {"libnvinfer.so.11": ""}
    machine.set("tensorrt_libs", ModuleType("tensorrt_libs"))  # TensorRT 11's
    with pytest.raises(BackendError) as raised:
        open_libraries("ort_tensorrt")
    assert str(raised.value) == (
        "libnvinfer.so.10 (in tensorrt-cu13-libs of version 10) is missing: "
        "ONNX Runtime's provider is linked with TensorRT 10"
    )
    machine.libraries = {"libnvinfer.so.10": ""}
    open_libraries("ort_tensorrt")
    assert machine.opened[-2:] == ["preload_dlls", "libnvinfer.so.10"]
    machine.wheels.pop("cudnn")  # which this provider is linked with, other than CUDA's
    with pytest.raises(BackendError, match=r"^libcudnn\.so\.9 \(in nvidia-cudnn-cu13\) is missing$"):
        open_libraries("ort_tensorrt")


def test_the_plug_ins_own_cuda_runtime_is_opened_by_its_path(machine: Machine, tmp_path: Path) -> None:
    plugin = ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.__file__ = str(tmp_path / "__init__.py")
    machine.set("onnxruntime_ep_nv_tensorrt_rtx", plugin)
    machine.add_onnxruntime()
    bundled = tmp_path / "libcudart.so.13.4.36"
    bundled.touch()
    with pytest.raises(BackendError, match=r"^libcudart\.so\.13 \(in nvidia-cuda-runtime\) is missing$"):
        open_libraries("ort_tensorrt_rtx")  # it is there and does not open
    machine.libraries = {str(bundled): ""}
    open_libraries("ort_tensorrt_rtx")
    assert machine.opened == [str(bundled)]
    bundled.unlink()
    machine.add_wheels("cudart")
    open_libraries("ort_tensorrt_rtx")
    assert machine.opened[1:] == ["libcudart.so.13"]


def test_tensorrt_runs_without_a_cuda_runtime_of_its_own(machine: Machine) -> None:
    machine.set("tensorrt", ModuleType("tensorrt"))
    open_libraries("tensorrt")
    assert machine.opened == []
    machine.add_wheels("cudart")
    open_libraries("tensorrt")
    assert machine.opened == ["libcudart.so.13"]


def test_the_plug_in_is_registered_once(machine: Machine) -> None:
    ort, plugin = ModuleType("onnxruntime"), ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    registered: list[tuple[str, str]] = []
    device = type("Device", (), {"ep_name": "Rtx"})

    def devices() -> list[Any]:
        return [type("Device", (), {"ep_name": "CPU"})] + [device] * len(registered)

    vars(ort).update(get_ep_devices=devices, register_execution_provider_library=lambda *both: registered.append(both))
    vars(plugin).update(get_ep_name=lambda: "Rtx", get_library_path=lambda: "/plug/in.so")
    machine.set("onnxruntime", ort)
    machine.set("onnxruntime_ep_nv_tensorrt_rtx", plugin)
    assert plugin_devices() == ("Rtx", [device])
    assert plugin_devices() == ("Rtx", [device])
    assert registered == [("Rtx", "/plug/in.so")]
