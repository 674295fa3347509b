"""Opening a session on a plan, from file to tokens, over a double of the TensorRT module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from runtime.errors import PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.self_test import check_session
from runtime.package.manifest import Package
from runtime.package.plan_sidecar import PlanFile, read_sidecar
from runtime.session.gpu.trt.session import open_trt_session
from runtime.session.kv_budget import KVWishes
from tests.export.tiny_package import write_package
from tests.host_tensorrt import HostContext, HostCudaEngine, HostDevice, HostError
from tests.runtime.loading.test_backend import add_plan


class FakeCache:
    """A runtime cache that accepts only what a cache wrote, and is asked for it while its contexts are there."""

    def __init__(self, plan: FakeCudaEngine) -> None:
        self.plan = plan
        self.loaded = b""

    def deserialize(self, blob: bytes) -> bool:
        self.loaded = blob if blob == b"kernels" else b""
        return bool(self.loaded)

    def serialize(self) -> bytes:
        if not self.plan.contexts:
            raise HostError("kernels were asked for after the contexts were gone")
        return b"kernels"


class FakeCudaEngine(HostCudaEngine):
    """A plan whose contexts and runtime configuration are those of the library that loaded it."""

    device: HostDevice
    caches: list[FakeCache]
    how: list[Any]

    def create_execution_context(self, how: Any) -> HostContext:
        self.how.append(how)
        return super().create_execution_context(self.device)

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace(strategies=[], cuda_graph_strategy=None, cache=None)
        config.set_execution_context_allocation_strategy = config.strategies.append

        def create() -> FakeCache:
            self.caches.append(FakeCache(self))
            return self.caches[-1]

        config.create_runtime_cache = create
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config


def fake_library(plan: FakeCudaEngine | None, *, is_rtx: bool, validity: str = "VALID") -> SimpleNamespace:
    """``tensorrt`` or ``tensorrt_rtx``, as far as a session sees it."""
    deserialized: list[bytes] = []

    def deserialize(data: bytes) -> FakeCudaEngine | None:
        deserialized.append(data)
        return plan

    runtime = SimpleNamespace(
        engine_header_size=4,
        get_engine_validity=lambda header: (SimpleNamespace(name=validity), len(header)),
        deserialize_cuda_engine=deserialize,
    )
    module = SimpleNamespace(
        Runtime=lambda _logger: runtime,
        Logger=type("Logger", (), {"WARNING": 1, "__init__": lambda _self, _level: None}),
        ExecutionContextAllocationStrategy=SimpleNamespace(ON_PROFILE_CHANGE="on profile change"),
        deserialized=deserialized,
    )
    if is_rtx:
        module.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
    return module


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    made = write_package(tmp_path_factory.mktemp("models") / "tiny", "fp32")
    add_plan(made, "sm89", "tensorrt_rtx", "1.7", "8.9")
    add_plan(made, "current-sm89", "tensorrt", "11.4", "8.9")
    return made


@pytest.fixture
def plan(package: Package) -> FakeCudaEngine:
    made = FakeCudaEngine(package.path("trt/model.onnx"))
    made.device, made.caches, made.how = HostDevice(), [], []
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


def test_rtx_compiles_once_and_keeps_its_kernels(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, 4)
    assert check_session(session, package, "float32").max_kl < 1e-6
    config = plan.how[0]
    assert (config.strategies, config.cuda_graph_strategy) == (["on profile change"], "whole graph")
    assert config.cache is plan.caches[0]
    assert plan.device.launches == 0  # that library captures by itself
    assert len(plan.contexts) == 2
    session.close()
    assert kernels_file(package).read_bytes() == b"kernels"
    again = FakeCudaEngine(package.path("trt/model.onnx"))
    again.device, again.caches, again.how = HostDevice(), [], []
    file = use(fake_library(again, is_rtx=True), "sm89")
    open_trt_session(file, package.manifest.shape, again.device, 4).close()
    assert again.caches[0].loaded == b"kernels"


def test_kernels_of_another_gpu_are_left_alone(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    kernels_file(package).write_bytes(b"of another GPU")
    file = use(fake_library(plan, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, 4)
    assert plan.caches[0].loaded == b""
    session.close()
    assert kernels_file(package).read_bytes() == b"kernels"


def test_classic_tensorrt_records_its_decode_steps(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=False), "current-sm89")
    session = open_trt_session(file, package.manifest.shape, plan.device, 4)
    assert check_session(session, package, "float32").max_kl < 1e-6
    assert set(plan.how) == {"on profile change"}
    assert plan.device.launches > 0
    session.close()
    assert not (package.root / "trt/current-sm89.plan.kernels").exists()


def test_a_header_that_does_not_fit_is_refused_unread(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    module = fake_library(plan, is_rtx=True, validity="INVALID")
    with pytest.raises(PlanError, match=r"plan sm89\.plan does not fit this GPU and driver"):
        open_trt_session(use(module, "sm89"), package.manifest.shape, plan.device, 4)
    assert module.deserialized == []
    with pytest.raises(HostError, match="after the device was closed"):
        plan.device.view(0, 1)


def test_a_plan_that_tensorrt_refuses_is_an_error(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(None, is_rtx=False), "current-sm89")
    with pytest.raises(PlanError, match=r"TensorRT refused plan current-sm89\.plan; rebuild it with 'powertrain"):
        open_trt_session(file, package.manifest.shape, plan.device, 4)


def test_a_plan_of_another_model_closes_the_device(package: Package, plan: FakeCudaEngine, use: Use) -> None:
    file = use(fake_library(plan, is_rtx=False), "current-sm89")
    other = msgspec.structs.replace(package.manifest.shape, num_layers=3)
    with pytest.raises(Exception, match="differ from the package's"):
        open_trt_session(file, other, plan.device, 4)
    assert plan.device.closed


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plan_of_other_weights_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """From the backend's choice to a session; with seed 1 the plan's weights are not those of the CPU's graph."""
    package = write_package(tmp_path / "tiny", "fp32", seed=seed)
    add_plan(package, "sm89", "tensorrt_rtx", "1.7", "8.9")
    plan = FakeCudaEngine(package.path("trt/model.onnx"))
    plan.device, plan.caches, plan.how = HostDevice(), [], []
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library(plan, is_rtx=True))
    monkeypatch.setitem(
        sys.modules, "runtime.session.gpu.cuda_device", SimpleNamespace(CudaDevice=lambda _index: plan.device)
    )
    gpu = Gpu(0, "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")
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
