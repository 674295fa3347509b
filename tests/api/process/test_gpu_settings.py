"""From ``--gpu`` and ``--nvtx`` to what they are about; and the GPU that was chosen on the metrics' page."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.controllers.service import Service
from api.observe.gpu_watch import GpuReading, GpuWatch
from api.process import launch
from api.process.app import routed_app
from api.server_settings import Settings
from runtime.engine.config import EngineConfig
from runtime.engine.step_report import EngineStats
from runtime.errors import BackendError, DeviceError
from runtime.loading.backend import ON_CPU, Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.package.generation_config import GenerationConfig
from runtime.package.manifest import Package
from runtime.session.session import Session
from tests.export.tiny_package import write_package
from tests.fakes import Call, ScriptedSession, adding

ADA = Gpu(1, "GPU-aaaa", "RTX 4090", "8.9", 2**34, 2**34, "595.10")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return write_package(tmp_path / "tiny", with_trt=False)


@pytest.fixture
def any_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny package has no tokenizer, which is not the matter here."""
    sizes = {"max_model_len": 64, "defaults": GenerationConfig()}
    model = SimpleNamespace(base_name="tiny", names=("tiny",), close=lambda: None, **sizes)
    monkeypatch.setattr(launch, "served_model_from_package", lambda _package, **_: model)
    monkeypatch.setattr(launch, "warm_up_ids", lambda _model: ())


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these backends be all that there are."""

    def install(*choices: BackendChoice) -> None:
        monkeypatch.setattr(launch, "backend_choices", lambda *_, **__: iter(choices))

    return install


def test_the_gpu_that_was_asked_for_is_looked_for(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def look(wanted: str | None) -> Any:
        asked.append(wanted)
        raise BackendError(f"there is no GPU {wanted}")

    monkeypatch.setattr(launch, "find_gpus", look)
    with pytest.raises(BackendError, match="there is no GPU MIG-7"):
        launch.build_service(Settings(gpu="MIG-7"), package)
    with pytest.raises(BackendError, match="there is no GPU None"):
        launch.build_service(Settings(), package)
    assert asked == ["MIG-7", None]


@pytest.mark.usefixtures("any_model")
def test_the_chosen_gpu_is_watched_and_a_cpu_has_none(package: Package, chosen: Callable[..., None]) -> None:
    for choice, uuid in (
        (BackendChoice(Backend.CUDA, ("asked for",), ADA), "GPU-aaaa"),
        (ON_CPU, None),
    ):
        chosen(choice)
        service = launch.build_service(Settings(kv_cache_bytes=2**24, num_slots=1), package)
        assert (service.gpu.uuid if service.gpu else None) == uuid


@pytest.mark.usefixtures("any_model")
def test_a_gpu_that_answers_nothing_leaves_the_model_to_the_next_backend(
    package: Package, monkeypatch: pytest.MonkeyPatch, chosen: Callable[..., None]
) -> None:
    """It loads, and its first generation fails: what the server gives to its engine has tried that."""

    def fail(call: Call) -> None:
        raise DeviceError(f"no kernel for {call.kind}")

    broken, engine = ScriptedSession(adding, before_call=fail), SimpleNamespace(stats=EngineStats)
    built: list[Callable[[], Session]] = []
    monkeypatch.setattr("runtime.loading.model_loader.gpu_session_factory", lambda *_, **__: lambda: broken)

    def note(build: Callable[[], Session], _config: EngineConfig) -> Any:
        built.append(build)
        return engine

    monkeypatch.setattr(launch, "AsyncEngine", note)
    chosen(BackendChoice(Backend.CUDA, ("asked for",), ADA), ON_CPU)
    service = launch.build_service(Settings(kv_cache_bytes=2**24, num_slots=1), package)
    assert service.gpu is not None
    watched = GpuWatch("GPU-aaaa", is_used=service.gpu._is_used)
    watched._last = (time.monotonic(), GpuReading(utilization=0.5))
    assert watched.latest().utilization == 0.5
    session = built[0]()
    assert (session.info.backend, broken.closed) == ("cpu", True)
    assert watched.latest() == GpuReading()  # the GPU is others' now
    session.close()


@pytest.mark.usefixtures("any_model")
def test_ranges_without_their_package_are_refused_at_the_start(
    package: Package, monkeypatch: pytest.MonkeyPatch, chosen: Callable[..., None]
) -> None:
    chosen(ON_CPU)
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(BackendError, match="nvtx is on but the package nvtx is missing"):
        launch.build_service(Settings(nvtx=True), package)


@pytest.mark.usefixtures("any_model")
def test_the_watch_lives_as_long_as_the_application(package: Package, chosen: Callable[..., None]) -> None:
    read, closed = threading.Event(), threading.Event()

    def note() -> GpuReading:
        read.set()
        return GpuReading(utilization=0.5)

    reader = SimpleNamespace(read=note, close=closed.set)
    chosen(ON_CPU)
    service: Service = launch.build_service(Settings(num_slots=1), package)
    service = dataclasses.replace(service, gpu=GpuWatch("GPU-aaaa", lambda _uuid: reader))

    async def live() -> None:
        async with routed_app(service).lifespan():
            assert await asyncio.to_thread(read.wait, 60)
            assert not closed.is_set()
        assert await asyncio.to_thread(closed.wait, 60)

    asyncio.run(live())
