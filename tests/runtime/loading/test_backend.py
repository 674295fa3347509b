"""Which backend serves, and the doctor's report: every decision with the line that changes it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from runtime.errors import BackendError, KVBudgetError
from runtime.install import backend_line
from runtime.loading.backend import Backend, BackendChoice, Probe, backend_choices, probe_in_subprocess
from runtime.loading.backend_probe import ProbeResult, probe
from runtime.loading.gpu import GpuReport, find_gpus
from runtime.loading.gpu_loader import plan_gpu_cache
from runtime.package.adapter_room import AdapterRoom
from runtime.package.manifest import Package
from runtime.session.kv_budget import KVWishes
from tests.export.tiny_package import write_package
from tests.runtime.loading.machine import ADA, NONE, VERSIONS, add_plan, broken, working

CUDA_BINDINGS = "cuda.bindings.runtime (in cuda-bindings)"
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx (in onnxruntime-ep-nv-tensorrt-rtx-cu13)"


def first_choice(package: Package, wanted: str, probe: Probe, gpus: Callable[[], GpuReport]) -> BackendChoice:
    return next(backend_choices(package, wanted, probe=probe, gpus=gpus))


def never(backend: Backend) -> ProbeResult:
    raise AssertionError(f"{backend} was probed on a machine without a GPU")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write_package(tmp_path / "tiny")


def test_without_a_gpu_nothing_is_probed_and_the_cpu_serves(package: Package) -> None:
    choice = first_choice(package, "auto", probe=never, gpus=lambda: NONE)
    assert (choice.backend, choice.gpu) == (Backend.CPU, None)
    assert choice.explain() == "backend cpu: no driver"
    with pytest.raises(BackendError, match="backend tensorrt needs a GPU: no driver; install one, or serve"):
        first_choice(package, "tensorrt", probe=never, gpus=lambda: NONE)
    assert first_choice(package, "cpu", probe=never, gpus=lambda: GpuReport((ADA,))).backend is Backend.CPU


def test_auto_takes_the_first_that_works_and_has_its_plan(package: Package) -> None:
    add_plan(package, "sm89", "tensorrt_rtx", VERSIONS[Backend.TENSORRT_RTX], "8.9")
    choice = first_choice(package, "auto", probe=working, gpus=lambda: GpuReport((ADA,)))
    assert choice.backend is Backend.TENSORRT_RTX
    assert choice.plan is not None
    assert choice.plan.path.name == "sm89.plan"
    assert choice.reasons[0].startswith("no tensorrt: plan sm89 was built by tensorrt_rtx 1.7.1.116, this machine runs")
    assert choice.reasons[1] == "tensorrt-rtx 1.7.1.116 works on RTX 4090"


def test_auto_falls_back_to_the_cpu_and_says_why_of_each(package: Package) -> None:
    choice = first_choice(package, "auto", probe=broken, gpus=lambda: GpuReport((ADA,)))
    assert choice.backend is Backend.CPU
    assert choice.reasons == tuple(
        f"no {name}: {name} is broken; fix {name}" for name in ("tensorrt", "tensorrt-rtx", "cuda")
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("cuda", "cannot serve: the package's graph is for the CPU; export it with --precision fp16"),
        ("tensorrt-rtx", "holds no plan; build one with 'powertrain engine .* --target sm89'"),
        ("tensorrt", "holds no plan; build one with 'powertrain engine .* --target current'"),
        (
            "rocm",
            "backend 'rocm' is unknown; choose one of auto, cpu, cuda, tensorrt, tensorrt-rtx, ort-tensorrt",
        ),
    ],
)
def test_a_backend_by_name_serves_or_is_refused(package: Package, wanted: str, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        first_choice(package, wanted, probe=working, gpus=lambda: GpuReport((ADA,)))


def test_a_package_with_room_for_adapters_is_the_cpus(package: Package) -> None:
    room = AdapterRoom(rank=16, num_layers=2, projections=())
    with_room = replace(package, manifest=msgspec.structs.replace(package.manifest, adapters=room))
    for wanted in ("cuda", "tensorrt-rtx"):
        with pytest.raises(BackendError, match=f"{wanted} cannot serve: the package's graph takes adapters.*--adapter"):
            first_choice(with_room, wanted, probe=working, gpus=lambda: GpuReport((ADA,)))
    assert first_choice(with_room, "auto", probe=working, gpus=lambda: GpuReport((ADA,))).backend is Backend.CPU


def test_onnx_runtimes_tensorrt_wants_the_graph_for_tensorrt(package: Package) -> None:
    manifest = msgspec.structs.replace(package.manifest, graphs={"ort": package.manifest.graphs["ort"]})
    without, gpus = replace(package, manifest=manifest), lambda: GpuReport((ADA,))
    for wanted in ("ort-tensorrt", "ort-tensorrt-rtx"):
        with pytest.raises(BackendError, match=f"{wanted} cannot serve: .* holds no graph for TensorRT; build it with"):
            first_choice(without, wanted, probe=working, gpus=gpus)
        assert first_choice(package, wanted, probe=working, gpus=gpus).backend == wanted


def test_a_crashing_library_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The probe's process dies as a broken GPU library makes it die; ours goes on."""
    for name, script, problem in (
        ("crash", "#!/bin/sh\nkill -SEGV $$\n", "its libraries crash (exit status -11)"),
        ("nonsense", "#!/bin/sh\necho hello\n", "its probe printed nonsense"),
    ):
        python = tmp_path / name
        python.write_text(script)
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))
        assert probe_in_subprocess(Backend.CUDA).problem == problem


def test_probes_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "cuda.bindings.runtime", "onnxruntime_ep_nv_tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    for name, extra, missing in (
        ("tensorrt", "tensorrt", f"{CUDA_BINDINGS}, tensorrt (in tensorrt) are missing"),
        ("ort_tensorrt_rtx", "ort-tensorrt-rtx", f"{CUDA_BINDINGS}, {PLUGIN} are missing"),
    ):
        assert probe(name) == ProbeResult(problem=missing, fix=backend_line(extra))


class Cuda(ModuleType):
    """``cuda.bindings.runtime`` on a machine with that many GPUs; None: without a driver."""

    def __init__(self, num_gpus: int | None) -> None:
        super().__init__("cuda.bindings.runtime")
        self._num_gpus = num_gpus

    def cudaGetDeviceCount(self) -> tuple[int, int | None]:  # noqa: N802 - CUDA's name
        if self._num_gpus is None:
            raise RuntimeError('Failure finding "libcuda.so.1"')
        return (0, self._num_gpus) if self._num_gpus else (100, None)


class FakeRuntime(ModuleType):
    """``onnxruntime-gpu``, which leaves out a provider whose library does not load, and only logs why."""

    __version__ = "1.31.1"

    def __init__(self, folder: Path, *, loads: bool) -> None:
        super().__init__("onnxruntime")
        self.__file__ = str(folder / "__init__.py")
        self._loads = loads

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, _model: bytes, providers: list[str]) -> Any:  # noqa: N802 - ONNX Runtime's name
        return SimpleNamespace(get_providers=lambda: [*providers * self._loads, "CPUExecutionProvider"])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr("runtime.loading.backend_probe.open_libraries", names.append)
    return names


def test_a_probe_opens_what_the_loader_opens_and_starts_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, opened: list[str]
) -> None:
    for name, provider in (("cuda", "CUDAExecutionProvider"), ("ort_tensorrt", "TensorrtExecutionProvider")):
        monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(tmp_path, loads=True))
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda(1))
        assert probe(name) == ProbeResult("1.31.1")
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda(0))
        assert probe(name).problem == "CUDA finds no GPU (status 100)"
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda(None))
        assert probe(name).problem == 'Failure finding "libcuda.so.1"'
        assert probe(name).fix.startswith("install a driver for CUDA 13")
        monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda(1))
        monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(tmp_path, loads=False))
        assert probe(name).problem == f"onnxruntime 1.31.1 cannot load the libraries of its {provider}"
        monkeypatch.setattr(ctypes, "CDLL", no_curand)
        assert probe(name).problem.endswith(f"{provider}: libcurand.so.10 is missing")
        monkeypatch.undo()
        monkeypatch.setattr("runtime.loading.backend_probe.open_libraries", opened.append)
    assert opened == ["cuda"] * 6 + ["ort_tensorrt"] * 6
    trt = SimpleNamespace(__version__="11.4", Logger=SimpleNamespace(ERROR=1), Runtime=lambda _logger: None)
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Cuda(1))
    assert probe("tensorrt").problem == "tensorrt does not start"
    trt.Runtime = lambda logger: logger
    assert probe("tensorrt") == ProbeResult("11.4")


def no_curand(path: str) -> None:
    assert path.endswith(("capi/libonnxruntime_providers_cuda.so", "capi/libonnxruntime_providers_tensorrt.so"))
    raise OSError("libcurand.so.10: cannot open shared object file: No such file or directory")


@pytest.mark.skipif(bool(find_gpus().gpus), reason="a machine with a GPU may have everything")
@pytest.mark.parametrize("backend", [one for one in Backend if one is not Backend.CPU])
def test_every_probe_answers_on_a_machine_without_a_gpu(backend: Backend) -> None:
    result = probe_in_subprocess(backend)
    assert result.problem
    assert result.fix
    assert "\n" not in result.problem


def test_the_cache_is_planned_from_the_plan_and_the_gpu(package: Package) -> None:
    add_plan(package, "sm89", "tensorrt_rtx", VERSIONS[Backend.TENSORRT_RTX], "8.9")
    choice = first_choice(package, "tensorrt-rtx", probe=working, gpus=lambda: GpuReport((ADA,)))
    plan = plan_gpu_cache(package, choice, KVWishes())
    assert (plan.num_slots, plan.slot_tokens, plan.bytes_per_token) == (4, 64, 2 * 2 * 2 * 16 * 2)
    shorter = plan_gpu_cache(package, choice, KVWishes(slot_tokens=32))
    assert (shorter.slot_tokens, shorter.rows, shorter.total_bytes) == (32, 64, 4 * 64 * 256)  # rows are the plan's
    assert shorter.explain().startswith("kv cache: 4 slots x 64 tokens (32 in use) x 256 bytes/token = ")
    with pytest.raises(KVBudgetError, match="needs 16,384 bytes, the budget is 1,000"):
        plan_gpu_cache(package, choice, KVWishes(budget_is_asked=True), kv_cache_bytes=1000)
    shared = plan_gpu_cache(package, choice, KVWishes(num_slots=3, budget_is_asked=True), kv_cache_share=0.5)
    # 12 bytes of plan, 1000 of scratch, logits of 3 and of 16 rows of 97 tokens in float32
    assert (shared.num_slots, shared.budget_bytes) == (3, (ADA.free_bytes - 12 - 1000 - (3 + 16) * 97 * 4) // 2)
    assert choice.plan is not None
    key = msgspec.structs.replace(choice.plan.sidecar.key, max_logits=5)
    brief = replace(choice, plan=replace(choice.plan, sidecar=msgspec.structs.replace(choice.plan.sidecar, key=key)))
    few = plan_gpu_cache(package, brief, KVWishes(num_slots=3, budget_is_asked=True), kv_cache_share=0.5)
    assert few.budget_bytes - shared.budget_bytes == 11 * 97 * 4 // 2
    assert shared.budget_note == "0.5 x (20.00 GiB free - 0.00 plan - 0.00 scratch - 0.00 logits)"
    assert shared.explain().endswith("of a budget of 10.00 GiB: " + shared.budget_note)
    small = replace(ADA, free_bytes=10_000)
    choice = first_choice(package, "tensorrt-rtx", probe=working, gpus=lambda: GpuReport((small,)))
    with pytest.raises(
        KVBudgetError, match=r"the budget is 982 \(0\.8 x \(0\.00 GiB free - 0\.00 plan - 0\.00 scratch"
    ):
        plan_gpu_cache(package, choice, KVWishes())


def test_slots_of_the_cuda_provider_are_as_long_as_asked(package: Package) -> None:
    """In rows of whole 64s, so that every slot lies where kernels load in full width."""
    choice = BackendChoice(Backend.CUDA, (), ADA)
    for wishes, expected in (
        (KVWishes(), (16, 64, 64)),
        (KVWishes(slot_tokens=50, num_slots=2), (2, 50, 64)),
    ):
        plan = plan_gpu_cache(package, choice, wishes)
        assert (plan.num_slots, plan.slot_tokens, plan.rows) == expected
    half = 512 * 64  # bytes of a slot in float32, which the package's CPU graph is in
    with pytest.raises(KVBudgetError, match="max_model_len 65 is not between 16 and the 64 tokens"):
        plan_gpu_cache(package, choice, KVWishes(slot_tokens=65))
    with pytest.raises(KVBudgetError, match=r"2 slots x 64 tokens .*; num_slots 1 would fit; or raise"):
        plan_gpu_cache(package, choice, KVWishes(num_slots=2, budget_is_asked=True), kv_cache_bytes=2 * half - 1)
