"""Opening a session on an engine, from file to tokens, over a double of the TensorRT module."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from runtime.backend import Backend, BackendChoice
from runtime.engine_sidecar import EngineError, EngineFile, read_sidecar
from runtime.gpu import Gpu
from runtime.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.manifest import Package
from runtime.self_test import check_against_cpu
from runtime.trt_session import open_trt_session
from tests.host_tensorrt import HostContext, HostDevice, HostEngine, HostError
from tests.trt.test_backend import add_engine
from tests.trt.tiny_package import write_package


class FakeCache:
    """A runtime cache that accepts only what a cache wrote."""

    def __init__(self) -> None:
        self.loaded = b""

    def deserialize(self, blob: bytes) -> bool:
        self.loaded = blob if blob == b"kernels" else b""
        return bool(self.loaded)

    def serialize(self) -> bytes:
        return b"kernels"


class FakeEngine(HostEngine):
    """An engine whose contexts and runtime configuration are those of the library that loaded it."""

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
            self.caches.append(FakeCache())
            return self.caches[-1]

        config.create_runtime_cache = create
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config


def fake_library(engine: FakeEngine | None, *, is_rtx: bool, validity: str = "VALID") -> SimpleNamespace:
    """``tensorrt`` or ``tensorrt_rtx``, as far as a session sees it."""
    deserialized: list[bytes] = []

    def deserialize(plan: bytes) -> FakeEngine | None:
        deserialized.append(plan)
        return engine

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
    add_engine(made, "sm89", "tensorrt_rtx", "1.7", "8.9")
    add_engine(made, "current-sm89", "tensorrt", "11.4", "8.9")
    return made


@pytest.fixture
def engine(package: Package) -> FakeEngine:
    made = FakeEngine(package.path("trt/model.onnx"))
    made.device, made.caches, made.how = HostDevice(), [], []
    return made


Use = Callable[[SimpleNamespace, str], EngineFile]


@pytest.fixture
def use(package: Package, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Put a double in the place of a library; returns that library's engine in the package."""

    def put(module: SimpleNamespace, target: str) -> EngineFile:
        file = read_sidecar(package.root, target)
        monkeypatch.setitem(sys.modules, file.sidecar.key.library, module)
        return file

    return put


def kernels_file(package: Package) -> Path:
    return package.root / "trt/sm89.engine.kernels"


def test_rtx_compiles_once_and_keeps_its_kernels(package: Package, engine: FakeEngine, use: Use) -> None:
    file = use(fake_library(engine, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, engine.device, 4)
    assert check_against_cpu(session, package, 1).max_kl < 1e-6
    config = engine.how[0]
    assert (config.strategies, config.cuda_graph_strategy) == (["on profile change"], "whole graph")
    assert config.cache is engine.caches[0]
    assert engine.device.launches == 0  # that library captures by itself
    assert len(engine.contexts) == 2
    session.close()
    assert kernels_file(package).read_bytes() == b"kernels"
    again = FakeEngine(package.path("trt/model.onnx"))
    again.device, again.caches, again.how = HostDevice(), [], []
    file = use(fake_library(again, is_rtx=True), "sm89")
    open_trt_session(file, package.manifest.shape, again.device, 4).close()
    assert again.caches[0].loaded == b"kernels"


def test_kernels_of_another_gpu_are_left_alone(package: Package, engine: FakeEngine, use: Use) -> None:
    kernels_file(package).write_bytes(b"of another GPU")
    file = use(fake_library(engine, is_rtx=True), "sm89")
    session = open_trt_session(file, package.manifest.shape, engine.device, 4)
    assert engine.caches[0].loaded == b""
    session.close()
    assert kernels_file(package).read_bytes() == b"kernels"


def test_classic_tensorrt_records_its_decode_steps(package: Package, engine: FakeEngine, use: Use) -> None:
    file = use(fake_library(engine, is_rtx=False), "current-sm89")
    session = open_trt_session(file, package.manifest.shape, engine.device, 4)
    assert check_against_cpu(session, package, 1).max_kl < 1e-6
    assert set(engine.how) == {"on profile change"}
    assert engine.device.launches > 0
    session.close()
    assert not (package.root / "trt/current-sm89.engine.kernels").exists()


def test_a_header_that_does_not_fit_is_refused_unread(package: Package, engine: FakeEngine, use: Use) -> None:
    module = fake_library(engine, is_rtx=True, validity="INVALID")
    with pytest.raises(EngineError, match=r"engine sm89\.engine does not fit this GPU and driver"):
        open_trt_session(use(module, "sm89"), package.manifest.shape, engine.device, 4)
    assert module.deserialized == []
    with pytest.raises(HostError, match="after the device was closed"):
        engine.device.view(0, 1)


def test_a_plan_that_tensorrt_refuses_is_an_error(package: Package, engine: FakeEngine, use: Use) -> None:
    file = use(fake_library(None, is_rtx=False), "current-sm89")
    with pytest.raises(EngineError, match=r"TensorRT refused engine current-sm89\.engine; rebuild it with 'powertrain"):
        open_trt_session(file, package.manifest.shape, engine.device, 4)


def test_an_engine_of_another_model_closes_the_device(package: Package, engine: FakeEngine, use: Use) -> None:
    file = use(fake_library(engine, is_rtx=False), "current-sm89")
    other = msgspec.structs.replace(package.manifest.shape, num_layers=3)
    with pytest.raises(Exception, match="differ from the package's"):
        open_trt_session(file, other, engine.device, 4)
    assert engine.device.closed


@pytest.mark.parametrize("seed", [0, 1])
def test_an_engine_of_other_weights_never_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """From the backend's choice to a session; with seed 1 the engine's weights are not those of the CPU's graph."""
    package = write_package(tmp_path / "tiny", "fp32", seed=seed)
    add_engine(package, "sm89", "tensorrt_rtx", "1.7", "8.9")
    engine = FakeEngine(package.path("trt/model.onnx"))
    engine.device, engine.caches, engine.how = HostDevice(), [], []
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library(engine, is_rtx=True))
    monkeypatch.setitem(sys.modules, "runtime.cuda_memory", SimpleNamespace(CudaDevice=lambda _index: engine.device))
    gpu = Gpu(0, "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")
    choice = BackendChoice(Backend.TENSORRT_RTX, (), gpu, read_sidecar(package.root, "sm89"))
    kv = plan_gpu_cache(package, choice, num_slots=16, max_model_len=None, kv_cache_bytes=None)
    build = gpu_session_factory(package, choice, kv, self_test=True, threads=1)
    if seed == 0:
        session = build()
        assert (session.info.backend, session.info.num_slots) == ("tensorrt_rtx", 4)
        session.close()
    else:
        with pytest.raises(EngineError, match="backend tensorrt_rtx does not compute this package's model"):
            build()
    assert engine.device.closed
