"""Every extra for GPUs holds the wheels that its backend opens: resolved without a network, on a record of the wheels.

Fails when an extra lacks a wheel, when a library would not be found where it lies, and when the record, the lock files
and pyproject.toml do not belong together.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib

import pytest
from packaging.requirements import Requirement

from requirements.audit import FOLDER, pins_of
from requirements.wheels import Library, Wheel, load_record, resolve, unmet
from runtime.session.gpu.libraries import CUDA_LIBRARIES, NEEDS, WHEELS
from tests.paths import ROOT

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
BACKENDS = sorted(NEEDS)
NOT_OPENED = {"cuda": {"libonnxruntime_providers_tensorrt.so"}}
"""Libraries in a backend's wheels that it leaves alone."""
METRICS = "nvidia-ml-py"
"""The wheel of ``pynvml``, which the GPU's metrics are read through."""
RECORD = load_record()
CURAND = "nvidia/cu13/lib/libcurand.so.10"


def problems(backend: str, requirements: list[str], record: list[Wheel] = RECORD) -> list[str]:
    """What keeps ``backend`` from running in an environment of ``requirements``."""
    wheels, found = resolve(requirements, record)
    needs = NEEDS[backend]
    modules = {name for wheel in wheels for name in wheel.modules}
    found += [f"no wheel has {name}" for name in needs.modules if name not in modules]
    opened = [CUDA_LIBRARIES[name] for name in (*needs.libraries, *needs.optional)]
    return found + unmet(wheels, opened, NOT_OPENED.get(backend, ()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_extra_holds_everything_that_its_backend_opens(backend: str) -> None:
    assert problems(backend, EXTRAS[NEEDS[backend].extra]) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_extra_without_one_of_its_wheels_is_found_out(backend: str) -> None:
    extra = EXTRAS[NEEDS[backend].extra]
    through_others = {"nvidia-cublas": "nvidia-cudnn-cu13", "nvidia-cuda-nvrtc": "nvidia-cublas"}
    for left_out in extra:
        rest = [line for line in extra if line != left_out]
        name = Requirement(left_out).name
        if name in through_others and any(through_others[name] in line for line in rest):
            continue  # its own requirements bring it
        if name == METRICS:
            continue  # no backend opens it
        assert problems(backend, rest), f"nothing misses {left_out}"


def test_every_extra_for_gpus_brings_what_reads_a_gpus_memory_and_load() -> None:
    """The server looks for it and does without, so nothing else would miss it."""
    for backend in BACKENDS:
        names = [wheel.name for wheel in resolve(EXTRAS[NEEDS[backend].extra], RECORD)[0]]
        assert names.count(METRICS) == 1, backend


def test_what_is_missing_and_where_nobody_looks_is_named() -> None:
    gpu = EXTRAS["gpu"]
    without = [line for line in gpu if "curand" not in line]
    assert problems("cuda", without) == [
        "libcurand.so.10 is opened first, and no wheel has it",
        "onnxruntime/capi/libonnxruntime_providers_cuda.so needs libcurand.so.10: no wheel has it",
    ]
    wheels, _ = resolve(gpu, RECORD)
    needed = [line for line in unmet(wheels, (), NOT_OPENED["cuda"]) if "providers_cuda" in line]
    assert needed == []  # preload_dlls opens them as well
    silent = [dataclasses.replace(wheel, preloads=()) for wheel in wheels]
    needed = [line for line in unmet(silent, (), NOT_OPENED["cuda"]) if "providers_cuda.so needs libcurand" in line]
    assert needed == [
        f"onnxruntime/capi/libonnxruntime_providers_cuda.so needs libcurand.so.10: {CURAND} has it, where nobody looks"
    ]


def test_the_plug_ins_cuda_runtime_is_found_only_because_it_is_opened() -> None:
    """It lies beside the plug-in, under a name that the loader does not look for and where it does not search."""
    wheels, _ = resolve(EXTRAS["ort-tensorrt-rtx"], RECORD)
    closed = [
        dataclasses.replace(wheel, preloads=tuple(path for path in wheel.preloads if "cudart" not in path))
        for wheel in wheels
    ]
    (line, *_) = [line for line in unmet(closed, ()) if "providers_nv_tensorrt_rtx" in line]
    assert line.endswith(
        "needs libcudart.so.13: onnxruntime_ep_nv_tensorrt_rtx/libcudart.so.13.4.36 has it, where nobody looks"
    )


def test_the_wheel_that_is_named_brings_what_is_missing() -> None:
    named = {*CUDA_LIBRARIES.values(), *(module for needs in NEEDS.values() for module in needs.modules)}
    assert set(WHEELS) == named
    for missing, wheel in WHEELS.items():
        brought, found = resolve([wheel], RECORD)
        assert not found
        libraries = {library.name for one in brought for library in one.libraries}
        assert missing in libraries | {module for one in brought for module in one.modules}, missing


def test_onnx_runtimes_tensorrt_is_not_the_plans_tensorrt() -> None:
    assert "libnvinfer.so.10: no wheel has it" in problems("ort_tensorrt", EXTRAS["gpu"] + EXTRAS["tensorrt"])[0]
    assert re.search(
        r"of which the record has 10\.16", problems("ort_tensorrt", [*EXTRAS["ort-tensorrt"], "tensorrt>=11"])[0]
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lock_file_holds_the_recorded_versions(backend: str) -> None:
    extra = NEEDS[backend].extra
    beside = "gpu" if extra == "ort-tensorrt" else "cpu"  # what an environment has before
    lines = [line for file in (extra, beside) for line in (FOLDER / f"{file}.txt").read_text("utf-8").splitlines()]
    pins = {(pin.name, pin.version) for pin in pins_of(lines, extra)}
    wheels, _ = resolve(EXTRAS[extra], RECORD)
    assert {(wheel.name, wheel.version) for wheel in wheels} <= pins


def test_every_pin_for_a_gpu_has_a_hash_and_no_index_is_named() -> None:
    for extra in {needs.extra for needs in NEEDS.values()}:
        text = (FOLDER / f"{extra}.txt").read_text("utf-8")
        entries = re.split(r"(?m)^(?=\w)", text)[1:]
        assert all("--hash=sha256:" in entry for entry in entries)
        assert "://" not in text
    assert "://" not in (FOLDER / "wheels.json").read_text("utf-8")


def test_what_could_not_be_read_is_known() -> None:
    """TensorRT's own libraries: the proof takes their names for granted, and knows nothing of what they need."""
    unread = {(wheel.name, wheel.version.partition(".")[0]) for wheel in RECORD if wheel.unread}
    assert unread == {("tensorrt-cu13-libs", "10"), ("tensorrt-cu13-libs", "11")}
    assert all(library.needed is not None for wheel in RECORD if not wheel.unread for library in wheel.libraries)


def test_a_library_is_found_by_its_files_name_in_a_folder_that_is_searched() -> None:
    """As the system's loader does it: by RUNPATH and the file's name, or because it is open already."""

    def judge(file: str, search: str, preloads: tuple[str, ...] = ()) -> list[str]:
        user = Library("a/libuser.so", "", ("libdep.so.1", "libc.so.6", "libcuda.so.1"), (search,), ())
        dependency = Library(f"b/{file}", "libdep.so.1", (), (), ("libgone.so.2",))
        return unmet([Wheel("w", "1", (), (), preloads, "", (user, dependency))], ())

    gone = "libgone.so.2: no wheel has it"
    assert judge("libdep.so.1", "$ORIGIN/../b") == [f"b/libdep.so.1 needs {gone}"]
    assert judge("libdep.so.1", "/elsewhere:${ORIGIN}/../b/") == [f"b/libdep.so.1 needs {gone}"]
    assert judge("libdep.so.1.2", "$ORIGIN/../b") == [
        "a/libuser.so needs libdep.so.1: b/libdep.so.1.2 has it, where nobody looks",
        f"b/libdep.so.1.2 needs {gone}",
    ]
    assert judge("libdep.so.1", "$ORIGIN")[0].endswith("where nobody looks")
    assert judge("libdep.so.1.2", "$ORIGIN", ("b/libdep.so.1.2",)) == [f"b/libdep.so.1.2 needs {gone}"]
