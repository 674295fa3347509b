"""Opening a session on a plan, from file to tokens, over a double of the TensorRT module."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from runtime.errors import DeviceError, DeviceOutOfMemory, PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.self_test import check_session
from runtime.package.manifest import Package, load_package
from runtime.package.plan_sidecar import PlanFile, read_sidecar
from runtime.session.gpu.trt.session import open_trt_session
from runtime.session.kv_budget import KVPlan, KVWishes
from tests.export.tiny_package import write_package
from tests.host_device import HostDevice, HostError
from tests.runtime.loading.machine import add_plan
from tests.runtime.session.gpu.plan_library import FakeCudaEngine, FakeHead, fake_library


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    made = write_package(tmp_path_factory.mktemp("models") / "tiny", "fp32")
    add_plan(made, "sm89", "tensorrt_rtx", "1.7", "8.9")
    add_plan(made, "current-sm89", "tensorrt", "11.4", "8.9")
    for name, library, version in (("sm80", "tensorrt_rtx", "1.7"), ("current-sm80", "tensorrt", "11.4")):
        add_plan(made, name, library, version, "8.0", head_bytes=5)
    return made


@pytest.fixture
def plan(package: Package) -> FakeCudaEngine:
    made = FakeCudaEngine(package.path("trt/model.onnx"))
    made.device, made.runtime_caches, made.how = HostDevice(), [], []
    return made


Use = Callable[[SimpleNamespace, str], PlanFile]


@pytest.fixture
def use(package: Package, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Put a double in the place of a library; returns that library's plan in the package."""

    def put(module: SimpleNamespace, target: str) -> PlanFile:
        file = read_sidecar(package.root, target)
        monkeypatch.setitem(sys.modules, file.sidecar.key.library, module)
        return file

    return put


def kernels_file(package: Package) -> Path:
    return package.root / "trt/sm89.plan.kernels"


def cache_of(slots: int = 4) -> KVPlan:
    return KVPlan(num_slots=slots, slot_tokens=64, bytes_per_token=2 * 2 * 2 * 16 * 4, budget_bytes=0)


NUM_COMPILED = 3 * 2 + 3
"""Prefill of 1, 8 and 16 tokens with 1 and 8 rows of logits; decode of 1, 2 and 4 rows."""


def test_rtx_compiles_before_it_serves_and_keeps_its_kernels(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    module = fake_library(plan, is_rtx=True)
    session = open_trt_session(use(module, "sm89"), package.manifest.shape, plan.device, cache_of())
    assert kernels_file(package).read_bytes() == b"kernels" + bytes(NUM_COMPILED)  # a killed server loses nothing
    assert kernels_file(package).stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in (package.root / "trt").glob("*kernels")) == ["sm89.plan.kernels"]
    load_package(package.root)
    assert check_session(session, package, "float32").max_kl < 1e-6
    assert len(plan.compiled) == NUM_COMPILED
    config = plan.how[0]
    assert (config.strategies, config.cuda_graph_strategy) == (["user managed"], "whole graph")
    assert config.dynamic_shapes_kernel_specialization_strategy == "at once"
    assert config.cache is plan.runtime_caches[0]
    assert plan.device.launches == 0  # that library captures by itself
    assert len(plan.contexts) == 2
    session.close()
    again = FakeCudaEngine(package.path("trt/model.onnx"))
    again.device, again.runtime_caches, again.how = HostDevice(), [], []
    file = use(fake_library(again, is_rtx=True), "sm89")
    open_trt_session(file, package.manifest.shape, again.device, cache_of()).close()
    assert again.runtime_caches[0].loaded == b"kernels" + bytes(NUM_COMPILED)


def test_kernels_of_another_gpu_are_compiled_anew(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    kernels_file(package).write_bytes(b"of another GPU")
    file = use(fake_library(plan, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert plan.runtime_caches[0].loaded == b""
    assert kernels_file(package).read_bytes() == b"kernels" + bytes(NUM_COMPILED)
    session.close()


def test_kernels_never_go_through_a_link(package: Package, plan: FakeCudaEngine, use: Use, tmp_path: Path) -> None:
    elsewhere = tmp_path / "kernels of somebody"
    elsewhere.write_bytes(b"kernels, not ours")
    kernels_file(package).unlink(missing_ok=True)
    kernels_file(package).symlink_to(elsewhere)
    file = use(fake_library(plan, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert plan.runtime_caches[0].loaded == b""
    assert elsewhere.read_bytes() == b"kernels, not ours"
    assert not kernels_file(package).is_symlink()
    session.close()


def test_too_many_kernels_are_neither_read_nor_kept(
    package: Package, plan: FakeCudaEngine, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.session.gpu.trt.kernel_file.MAX_BYTES", 10)
    kernels_file(package).write_bytes(b"kernels" + bytes(4))
    file = use(fake_library(plan, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert plan.runtime_caches[0].loaded == b""
    assert kernels_file(package).read_bytes() == b"kernels" + bytes(4)
    session.close()


@pytest.mark.parametrize("odd", ["folder", "pipe", "none given"])
def test_kernels_that_cannot_be_kept_cost_nothing_else(
    package: Package, plan: FakeCudaEngine, use: Use, odd: str
) -> None:
    path = kernels_file(package)
    path.unlink(missing_ok=True)
    if odd == "folder":
        path.mkdir()
    elif odd == "pipe":
        os.mkfifo(path)
    else:
        plan.refused = {"serialize"}
    file = use(fake_library(plan, is_rtx=True), "sm89")
    open_trt_session(file, package.manifest.shape, plan.device, cache_of()).close()
    assert [one.name for one in path.parent.glob(".*")] == []
    if odd == "folder":
        path.rmdir()


def test_a_cache_that_the_library_refuses_is_an_error(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    plan.refused = {"set_runtime_cache"}
    file = use(fake_library(plan, is_rtx=True), "sm89")
    with pytest.raises(DeviceError, match="refused a cache for the kernels"):
        open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert plan.device.closed


def test_a_library_that_does_not_capture_is_told(
    package: Package, plan: FakeCudaEngine, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    plan.refused = {"cuda_graph_strategy"}
    file = use(fake_library(plan, is_rtx=True), "sm89")
    open_trt_session(file, package.manifest.shape, plan.device, cache_of()).close()
    warning, _no_head = [line.getMessage() for line in caplog.records if line.levelno == logging.WARNING]
    assert warning.startswith("TensorRT for RTX refused to capture CUDA graphs")


def test_classic_tensorrt_records_its_decode_steps(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=False), "current-sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    launches = plan.device.launches
    assert check_session(session, package, "float32").max_kl < 1e-6
    assert set(plan.how) == {"user managed"}
    assert plan.device.launches > launches > 0
    session.close()
    assert not (package.root / "trt/current-sm89.plan.kernels").exists()


@pytest.mark.parametrize("is_rtx", [True, False])
def test_a_plan_is_mapped_and_goes_after_its_contexts(
    package: Package, plan: FakeCudaEngine, use: Use, is_rtx: bool
) -> None:
    """A plan of 16 GB must not be read into a bytes object, nor stay in memory after it was loaded."""
    module = fake_library(plan, is_rtx=is_rtx)
    file = use(module, "sm89" if is_rtx else "current-sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert module.deserialized == [(file.path.read_bytes(), memoryview)]
    assert str(file.path) not in Path("/proc/self/maps").read_text()
    assert module.ended == []
    session.close()
    assert module.ended == [("plan", 0), ("runtime", 0)]


@pytest.mark.parametrize("is_rtx", [True, False])
def test_a_head_is_loaded_from_the_end_of_the_file_and_chooses_tokens(
    package: Package, plan: FakeCudaEngine, use: Use, is_rtx: bool
) -> None:
    head = FakeHead(package.path("selection/model.onnx"))
    head.device, head.runtime_caches, head.how = plan.device, [], []
    module = fake_library(plan, is_rtx=is_rtx, head=head)
    file = use(module, "sm80" if is_rtx else "current-sm80")
    session = open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    data = file.path.read_bytes()
    assert [part for part, _ in module.deserialized] == [data[:-5], data[-5:]]
    assert session.info.selects
    assert check_session(session, package, "float32").max_kl < 1e-6
    rows = {shapes["logits"][0] for _, shapes in head.compiled}
    assert rows == {1, 2, 4}
    kept = [path.name for path in (package.root / "trt").glob(f"{file.sidecar.key.target}.*kernels")]
    assert sorted(kept) == (["sm80.plan.kernels", "sm80.selection.plan.kernels"] if is_rtx else [])
    load_package(package.root)
    session.close()
    assert module.ended == [("head", 0), ("runtime", 0), ("plan", 0), ("runtime", 0)]


def test_without_a_head_the_host_draws_and_the_log_says_so(
    package: Package, plan: FakeCudaEngine, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    session = open_trt_session(
        use(fake_library(plan, is_rtx=True), "sm89"), package.manifest.shape, plan.device, cache_of()
    )
    assert not session.info.selects
    assert "the package has no selection head, so each step's logits come to the host" in caplog.text
    session.close()


def test_memory_that_is_not_there_is_refused_with_the_arithmetic(
    package: Package, plan: FakeCudaEngine, use: Use
) -> None:
    plan.device.limit_bytes, plan.device_memory_size_v2 = 2**30, 3 * 2**30
    file = use(fake_library(plan, is_rtx=True), "sm89")
    with pytest.raises(DeviceOutOfMemory) as refused:
        open_trt_session(file, package.manifest.shape, plan.device, replace(cache_of(), bytes_per_token=2**23))
    assert str(refused.value) == (
        "CUDA failed allocating 3,221,225,472 bytes on the GPU; needed are 0.00 plan + 3.00 scratch + 0.00 logits "
        "+ 2.00 cache (4 slots of 64 tokens) = 5.00 GiB: ask for fewer slots with --num-slots, or build the plan again "
        "with a smaller --max-model-len"
    )
    assert plan.device.closed


def test_a_header_that_does_not_fit_is_refused_unread(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    module = fake_library(plan, is_rtx=True, validity="INVALID")
    with pytest.raises(PlanError, match=r"plan sm89\.plan does not fit this GPU and driver \(diagnostics b'plan'\)"):
        open_trt_session(use(module, "sm89"), package.manifest.shape, plan.device, cache_of())
    assert module.deserialized == []
    with pytest.raises(HostError, match="after the device was closed"):
        plan.device.view(0, 1)


def test_a_plan_that_tensorrt_refuses_is_an_error(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(None, is_rtx=False), "current-sm89")
    with pytest.raises(PlanError, match=r"TensorRT refused plan current-sm89\.plan; rebuild it with 'powertrain"):
        open_trt_session(file, package.manifest.shape, plan.device, cache_of())


def test_a_plan_that_was_emptied_meanwhile_is_an_error(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=False), "current-sm89")
    held = file.path.read_bytes()
    file.path.write_bytes(b"")
    try:
        with pytest.raises(PlanError, match=r"plan current-sm89\.plan cannot be mapped"):
            open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    finally:
        file.path.write_bytes(held)


def test_a_plan_of_another_model_closes_the_device(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=False), "current-sm89")
    other = msgspec.structs.replace(package.manifest.shape, num_layers=3)
    with pytest.raises(Exception, match="differ from the package's"):
        open_trt_session(file, other, plan.device, cache_of())
    assert plan.device.closed


@pytest.mark.parametrize(
    "refused", ["create_execution_context", "set_optimization_profile_async", "set_input_shape", "execute_async_v3"]
)
def test_a_library_that_refuses_at_the_start_closes_everything(
    package: Package, plan: FakeCudaEngine, use: Use, refused: str
) -> None:
    plan.refused = {refused}
    module = fake_library(plan, is_rtx=True)
    file = use(module, "sm89")
    with pytest.raises(DeviceError) as failed:  # held, with its traceback, while the order of things is looked at
        open_trt_session(file, package.manifest.shape, plan.device, cache_of())
    assert (plan.device.closed, plan.contexts) == (True, [])
    assert module.ended == [("plan", 0), ("runtime", 0)]
    assert failed.value.__context__ is None


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_of_other_weights_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """From the backend's choice to a session; with seed 1 the plan's weights are not those of the CPU's graph."""
    package = write_package(tmp_path / "tiny", "fp32", seed=seed)
    add_plan(package, "sm89", "tensorrt_rtx", "1.7", "8.9")
    plan = FakeCudaEngine(package.path("trt/model.onnx"))
    plan.device, plan.runtime_caches, plan.how = HostDevice(), [], []
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library(plan, is_rtx=True))
    monkeypatch.setitem(
        sys.modules, "runtime.session.gpu.cuda_device", SimpleNamespace(CudaDevice=lambda _index: plan.device)
    )
    gpu = Gpu(0, "GPU-00000", "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")
    choice = BackendChoice(Backend.TENSORRT_RTX, (), gpu, read_sidecar(package.root, "sm89"))
    kv = plan_gpu_cache(package, choice, KVWishes())
    build = gpu_session_factory(package, choice, kv, self_test=True)
    if seed == 0:
        session = build()
        assert (session.info.backend, session.info.num_slots) == ("tensorrt_rtx", 4)
        session.close()
    else:
        with pytest.raises(PlanError, match="backend tensorrt_rtx does not compute this package's model"):
            build()
    assert plan.device.closed
