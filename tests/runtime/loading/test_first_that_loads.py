"""What a backend raises while it loads leads to the next one, or to one clear error."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.worker import EngineWorker
from runtime.errors import BackendError, DeviceError, KVBudgetError, PlanError
from runtime.loading.backend import Backend, BackendChoice, backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.gpu import Gpu, GpuReport
from runtime.loading.model_loader import ModelOptions
from runtime.package.manifest import Package
from tests.export.tiny_package import write_package
from tests.runtime.loading.machine import ADA, VERSIONS, add_plan, working

ADVICE = "; run 'powertrain doctor', or serve with --backend cpu"
OPTIONS = ModelOptions(num_slots=2, kv_cache_bytes=2**22, threads=1)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """For TensorRT for RTX by its plan, and for the CPU; CUDA has no use for its float32."""
    package = write_package(tmp_path / "tiny")
    add_plan(package, "sm89", "tensorrt_rtx", VERSIONS[Backend.TENSORRT_RTX], "8.9")
    return package


@pytest.fixture
def raises(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let every GPU raise this while its session is built."""

    def install(error: Exception) -> None:
        def factory(*_: Any, **__: Any) -> Callable[[], Any]:
            def build() -> Any:
                raise error

            return build

        monkeypatch.setattr("runtime.loading.model_loader.gpu_session_factory", factory)

    return install


def loading(package: Package, wanted: str, options: ModelOptions = OPTIONS, gpu: Gpu = ADA) -> FirstThatLoads:
    choices = backend_choices(package, wanted, probe=working, gpus=lambda: GpuReport((gpu,)))
    return FirstThatLoads(package, options, choices)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'cuda'"), "ModuleNotFoundError: No module named 'cuda'"),
        (OSError("libnvinfer.so.11: cannot open shared object file\n  more"), "OSError: libnvinfer.so.11: cannot open"),
        (DeviceError("CUDA failed allocating 9 bytes"), "CUDA failed allocating 9 bytes"),
        (AttributeError(), "AttributeError"),
    ],
)
def test_what_a_backend_raises_leads_auto_to_the_next(
    package: Package, raises: Callable[[Exception], None], caplog: pytest.LogCaptureFixture, error: Exception, said: str
) -> None:
    raises(error)
    caplog.set_level(logging.INFO, "powertrain.backend")
    first = loading(package, "auto")
    assert first.kv.slot_tokens == 64  # the plan's
    assert caplog.messages[0].startswith("backend tensorrt-rtx: no tensorrt: plan sm89 was built by tensorrt_rtx")
    session = first.build()
    assert (session.info.backend, session.info.max_model_len) == ("cpu", 64)
    session.close()
    warning, chosen, _ = caplog.messages[2:]
    assert warning.startswith("backend tensorrt-rtx does not load: ")
    assert said in warning
    assert warning.endswith("; trying cpu")
    assert chosen.startswith("backend cpu: no tensorrt: ")
    assert "; no tensorrt-rtx: it did not load; no cuda: the package's graph is for the CPU" in chosen


class Opened:
    """A GPU's session, as far as loading goes."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_session_that_cannot_be_used_is_closed_and_leads_to_the_next(
    package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu: Any = Opened()
    tried: list[Any] = []
    monkeypatch.setattr("runtime.loading.model_loader.gpu_session_factory", lambda *_, **__: lambda: on_gpu)

    def trial(session: Any) -> None:
        tried.append(session)
        if len(tried) == 1:
            raise DeviceError("no numbers came")

    session = loading(package, "auto").factory(trial)()
    assert session.info.backend == "cpu"
    session.close()
    assert (tried, on_gpu.closed) == ([on_gpu], 1)  # the CPU's is tried by who gets it
    assert "backend tensorrt-rtx does not load: no numbers came; trying cpu" in caplog.messages
    again: Any = loading(package, "auto").factory(trial)()
    assert again is on_gpu  # which nothing is wrong with now
    assert (len(tried), on_gpu.closed) == (2, 1)


def test_a_session_that_computes_another_model_is_closed(
    package: Package, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def differ(*_: Any) -> None:
        raise PlanError("it does not compute this package's model")

    on_gpu = Opened()
    monkeypatch.setattr("runtime.loading.gpu_loader._open", lambda *_: on_gpu)
    monkeypatch.setattr("runtime.loading.gpu_loader.check_session", differ)
    session = loading(package, "auto").build()
    assert (session.info.backend, on_gpu.closed) == ("cpu", 1)
    session.close()
    assert "backend tensorrt-rtx does not load: it does not compute this package's model; trying cpu" in caplog.messages


def test_a_backend_by_name_gives_one_clear_error(package: Package, raises: Callable[[Exception], None]) -> None:
    for error, said in (
        (DeviceError("out of memory; serve less"), "out of memory; serve less"),
        (
            RuntimeError("[ONNXRuntimeError] : 1\n  at line 7"),
            "backend tensorrt-rtx does not load: RuntimeError: [ONNXRuntimeError] : 1" + ADVICE,
        ),
    ):
        raises(error)
        one = loading(package, "tensorrt-rtx")
        with pytest.raises((DeviceError, BackendError)) as raised:
            one.build()
        assert str(raised.value) == said


def test_what_was_announced_holds_for_whatever_loads(
    package: Package, raises: Callable[[Exception], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients were told the slots' length: a backend that cannot give it does not serve."""
    raises(DeviceError("lost"))
    asked: list[ModelOptions] = []

    def plan(_package: Package, options: ModelOptions) -> Any:
        asked.append(options)
        if options.backend.backend is Backend.CPU:
            raise KVBudgetError("64 tokens do not fit")
        return first_plan(_package, options)

    first_plan = FirstThatLoads.__init__.__globals__["plan_model"]
    monkeypatch.setattr("runtime.loading.first_that_loads.plan_model", plan)
    one = loading(package, "auto")
    with pytest.raises(BackendError) as raised:
        one.build()
    assert str(raised.value) == "no backend loads this package: tensorrt-rtx: lost; cpu: 64 tokens do not fit"
    assert [(options.backend.backend, options.max_model_len) for options in asked] == [
        (Backend.TENSORRT_RTX, None),
        (Backend.CPU, 64),
    ]


def test_what_cannot_be_planned_is_passed_over(package: Package) -> None:
    """The plan was built for four slots; the CPU may have more."""
    many = ModelOptions(num_slots=5, kv_cache_bytes=2**22, threads=1)
    assert loading(package, "auto", many).kv.num_slots == 5
    with pytest.raises(BackendError, match=r"^num_slots 5 were asked for, the plan was built for 4"):
        loading(package, "tensorrt-rtx", many)
    with pytest.raises(KVBudgetError, match=r"^a kv cache of 1 slots x 64 tokens"):
        FirstThatLoads(package, ModelOptions(kv_cache_bytes=10), iter([BackendChoice(Backend.CPU, ())]))


def test_what_failed_is_let_go(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of a failed try hold weights and device memory, which the next one needs."""

    class Weights:
        pass

    held: list[weakref.ref[Weights]] = []

    def factory(*_: Any, **__: Any) -> Callable[[], Any]:
        def build() -> Any:
            weights = Weights()
            held.append(weakref.ref(weights))
            try:
                raise OSError("a library's own")
            except OSError as error:
                raise DeviceError("full") from error

        return build

    monkeypatch.setattr("runtime.loading.model_loader.gpu_session_factory", factory)
    one = loading(package, "auto")
    session = one.build()
    gc.collect()
    assert [ref() for ref in held] == [None]
    session.close()


def test_an_expected_failure_to_load_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """It says what to do; a stack trace is for what nobody expected."""
    for error, has_trace in ((BackendError("serve with --backend cpu"), False), (ZeroDivisionError("oh"), True)):

        def fail(error: Exception = error) -> Any:
            raise error

        caplog.clear()
        worker = EngineWorker(fail, EngineConfig(), lambda _events: None, lambda: None)
        worker.start()
        worker.close()
        assert worker.failure == f"{type(error).__name__}: {error}"
        (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert record.getMessage() == f"the engine died: {error}"
        assert bool(record.exc_info) is has_trace
