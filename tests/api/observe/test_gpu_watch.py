"""The GPU on the metrics' page: what NVML says, nothing that it does not say, and nobody waits for it."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.observe.gpu_watch import MAX_AGE_S, PERIOD_S, GpuReading, GpuWatch, open_nvml
from api.observe.metrics import ServerMetrics
from runtime.engine.step_report import EngineStats

UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"


class NVMLError(Exception):
    """As pynvml's."""


class HostNvml:
    """``pynvml`` for one GPU. ``refused`` are the functions that answer with NVML's error."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 33554472  # noqa: N815 - NVML's name

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.open = 0

    def _ask(self, name: str) -> None:
        if name in self.refused:
            raise NVMLError("Not Supported")
        if not self.open and name != "nvmlInit":
            raise AssertionError(f"{name} before nvmlInit")

    def nvmlInit(self) -> None:  # noqa: N802
        self._ask("nvmlInit")
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._ask("nvmlShutdown")
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._ask("nvmlDeviceGetHandleByUUID")
        return f"handle of {uuid}"

    def nvmlDeviceGetMemoryInfo(self, handle: str, version: int | None = None) -> SimpleNamespace:  # noqa: N802
        self._ask("nvmlDeviceGetMemoryInfo")
        assert handle == f"handle of {UUID}"
        reserved = 0 if version == self.nvmlMemory_v2 else 300
        return SimpleNamespace(total=24000, used=7000 + reserved, free=16700)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        self._ask("nvmlDeviceGetUtilizationRates")
        assert handle == f"handle of {UUID}"
        return SimpleNamespace(gpu=37, memory=12)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., HostNvml]:
    def put(*refused: str) -> HostNvml:
        double = HostNvml(*refused)
        monkeypatch.setitem(sys.modules, "pynvml", double)
        return double

    return put


def read_once() -> GpuReading:
    reader = open_nvml(UUID)
    assert reader is not None
    reading = reader.read()
    reader.close()
    return reading


def test_a_reading_is_what_nvml_says_of_the_gpu(install: Callable[..., HostNvml]) -> None:
    double = install()
    assert read_once() == GpuReading(used_bytes=7000, total_bytes=24000, utilization=0.37)
    assert double.open == 0


@pytest.mark.parametrize(
    ("refused", "reading"),
    [
        ("nvmlDeviceGetMemoryInfo", GpuReading(utilization=0.37)),
        ("nvmlDeviceGetUtilizationRates", GpuReading(used_bytes=7000, total_bytes=24000)),
        ("nvmlShutdown", GpuReading(used_bytes=7000, total_bytes=24000, utilization=0.37)),
    ],
)
def test_what_a_gpu_has_no_figure_for_is_not_told(
    install: Callable[..., HostNvml], refused: str, reading: GpuReading
) -> None:
    install(refused)
    assert read_once() == reading


def test_without_nvml_there_is_no_reader_and_the_log_says_why(
    install: Callable[..., HostNvml], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "powertrain.server"):
        for name in ("nvmlInit", "nvmlDeviceGetHandleByUUID"):
            install(name)
            assert open_nvml(UUID) is None
        monkeypatch.setitem(sys.modules, "pynvml", None)
        assert open_nvml(UUID) is None
    said = "no metrics of the GPU: "
    assert [record.getMessage() for record in caplog.records] == [
        f"{said}NVML says: Not Supported",
        f"{said}NVML says: Not Supported",
        f"{said}the package nvidia-ml-py is missing",
    ]


class StepReader:
    """Reads the same each time, and hangs in the second reading, when the first one has been noted."""

    def __init__(self, reading: GpuReading) -> None:
        self.reading = reading
        self.count = 0
        self.hanging, self.release, self.closed = (threading.Event() for _ in range(3))

    def read(self) -> GpuReading:
        self.count += 1
        if self.count == 2:
            self.hanging.set()
            self.release.wait(60)
        return self.reading

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.observe.gpu_watch.PERIOD_S", 0.0)


def page(watch: GpuWatch) -> dict[str, tuple[dict[str, str], float]]:
    metrics = ServerMetrics("mine", EngineStats, vllm_names=False)
    metrics.watch_gpu(watch)
    samples = (one for family in text_string_to_metric_families(metrics.page().decode()) for one in family.samples)
    return {one.name: (one.labels, one.value) for one in samples if one.name.startswith("nv_gpu")}


def test_a_scrape_gets_what_was_read_lately_and_waits_for_nothing() -> None:
    """The reader hangs all the while, as with a driver that does."""
    now = [100.0]
    reader = StepReader(GpuReading(7000, 24000, 0.37))
    watch = GpuWatch(UUID, lambda _uuid: reader, clock=lambda: now[0])
    assert page(watch) == {}
    watch.start()
    assert reader.hanging.wait(60)
    labels = {"model_name": "mine", "gpu_uuid": UUID}
    assert page(watch) == {
        "nv_gpu_memory_used_bytes": (labels, 7000.0),
        "nv_gpu_memory_total_bytes": (labels, 24000.0),
        "nv_gpu_utilization": (labels, 0.37),
    }
    now[0] += MAX_AGE_S
    assert len(page(watch)) == 3
    now[0] += 0.1
    assert page(watch) == {}
    watch.close()  # returns at once
    reader.release.set()
    assert reader.closed.wait(60)
    assert reader.count == 2


def test_a_figure_of_zero_is_told_and_none_is_not() -> None:
    reader = StepReader(GpuReading(utilization=0.0))
    watch = GpuWatch(UUID, lambda _uuid: reader)
    watch.start()
    assert reader.hanging.wait(60)
    assert list(page(watch)) == ["nv_gpu_utilization"]
    watch.close()
    reader.release.set()


def test_a_gpu_that_the_server_went_on_without_is_on_no_page_and_is_read_no_more() -> None:
    used = [True]
    reader = StepReader(GpuReading(utilization=0.5))
    watch = GpuWatch(UUID, lambda _uuid: reader, is_used=lambda: used[0])
    watch.start()
    assert reader.hanging.wait(60)
    assert list(page(watch)) == ["nv_gpu_utilization"]
    used[0] = False
    assert page(watch) == {}
    reader.release.set()
    assert reader.closed.wait(60)
    assert reader.count == 2


def test_a_gpu_that_cannot_be_read_is_no_gpu_on_the_page() -> None:
    watch = GpuWatch(UUID, lambda _uuid: None)
    watch.start()
    watch._thread.join(60)
    assert page(watch) == {}
    watch.close()


def test_the_period_suits_the_age() -> None:
    assert 1 <= PERIOD_S < MAX_AGE_S <= 15


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_double_is_like_the_real_nvml() -> None:
    real: Any = importlib.import_module("pynvml")
    assert real.nvmlMemory_v2 == HostNvml.nvmlMemory_v2
    assert issubclass(real.NVMLError, Exception)
    for name in [name for name in vars(HostNvml) if name.startswith("nvml") and callable(getattr(HostNvml, name))]:
        ours, theirs = (list(inspect.signature(getattr(one, name)).parameters) for one in (HostNvml(), real))
        assert ours == theirs, name
