"""A real graph one step ahead: the loader's switch, and the same bits ahead and not, alone and together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import TokenEvent
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.request import Request
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.cpu.threaded_session import ThreadedSession
from runtime.session.kv_budget import KVPlan
from runtime.session.session import Session
from tests.export.tiny_package import write_package
from tests.runtime.engine_driver import request


def test_the_loader_puts_a_session_on_a_thread_if_asked(tmp_path: Path) -> None:
    package = write_package(tmp_path / "tiny", with_trt=False)
    for decode_thread in (False, True):
        options = ModelOptions(num_slots=2, threads=1, decode_thread=decode_thread)
        session = session_factory(package, plan_model(package, options), options)()
        assert session.info.runs_ahead is decode_thread
        session.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    package = write_package(tmp_path_factory.mktemp("packages") / "tiny", with_trt=False)
    kv = KVPlan(num_slots=4, slot_tokens=64, bytes_per_token=1024, budget_bytes=0)
    made = OrtSession(
        package.path("ort/model.onnx"), package.manifest.shape, kv, OrtOptions(intra_op_threads=2), "float32"
    )
    yield made
    made.close()


def traced(session: Session, requests: list[Request]) -> dict[str, list[Any]]:
    engine, found = Engine(session, EngineConfig(deterministic=True)), dict[str, list[Any]]()
    for one in requests:
        engine.add(one)
    while engine.has_work:
        for event in engine.step().events:
            if isinstance(event, TokenEvent):
                found.setdefault(event.request_id, []).append((event.token_id, event.logprobs))
    return found


def test_bits_are_the_same_alone_and_together_ahead_and_not(opened: Session) -> None:
    rules: dict[str, Any] = {"logprobs": 5, "temperature": 0.9, "top_p": 0.9, "repetition_penalty": 1.2}
    requests = [request(f"r{i}", list(range(i, 9 + 3 * i)), max_tokens=9 + i, seed=i, **rules) for i in range(6)]
    plain = traced(opened, requests)

    session = ThreadedSession(opened)
    assert (session.info.runs_ahead, session.info.batch_invariant) == (True, True)
    assert traced(session, requests) == plain
    assert [thread.name for thread in threading.enumerate()].count("powertrain-decode") == 1
    for one in requests[::3]:
        assert traced(session, [one]) == {one.request_id: plain[one.request_id]}
    session.stop()
