"""A process that is stopped and continued, and clocks that jump, fail no request: only missing work does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from runtime.engine.async_engine import AsyncEngine
from runtime.engine.config import EngineConfig
from runtime.events import FinishReason
from tests.api.scripted_server import chunks_of, content_of, running_server, user
from tests.fakes import ScriptedSession, adding
from tests.paths import ROOT
from tests.runtime.engine_driver import Driver, request

HOUR_NS = 3_600_000_000_000


class FakeLoop:
    """A loop whose timers never fire; the test looks when it wants."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    def call_later(self, delay: float, _callback: Callable[[], None]) -> None:
        self.delays.append(delay)

    def time(self) -> float:
        return 0.0


def looks(monkeypatch: pytest.MonkeyPatch, seen: list[int | None]) -> list[bool]:
    """Whether the engine counts as hung after each look that saw so many steps."""
    engine = AsyncEngine(lambda: ScriptedSession(adding), EngineConfig(watchdog_s=8.0))
    loop: Any = FakeLoop()
    engine._loop, engine._changed = loop, asyncio.Event()
    hung = []
    for progress in seen:
        monkeypatch.setattr(engine._worker, "progress", lambda progress=progress: progress)
        engine._watch()
        hung.append(engine._hung)
    assert loop.delays == [2.0] * len(seen)
    return hung


def test_a_hang_is_four_looks_in_a_row_without_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(monkeypatch, [5, 5, 5, 5, 5, 5, 6, 6]) == [False] * 4 + [True, True, False, False]
    assert looks(monkeypatch, [5, 5, 5, 5, 6, 6, 6, 6]) == [False] * 8
    assert looks(monkeypatch, [5, 5, 5, 5, None, 5, 5, 5]) == [False] * 8


def test_a_jump_of_the_clock_expires_nobody_and_waiting_does() -> None:
    now = [0]
    config = EngineConfig(max_queue_time_s=10.0)
    driver = Driver(num_slots=1, config=config, clock=lambda: now[0])
    driver.add(request("running", [1, 2], max_tokens=200), request("waiting", [3, 4], max_tokens=2))
    driver.step()
    for _ in range(3):
        now[0] += HOUR_NS
        driver.step()
    assert not driver.finishes
    for _ in range(10):
        now[0] += HOUR_NS // 3600
        driver.step()
    assert driver.finishes["waiting", 0].reason is FinishReason.EXPIRED


def test_idle_hours_count_for_nobody() -> None:
    now = [0]
    driver = Driver(num_slots=1, config=EngineConfig(max_queue_time_s=10.0), clock=lambda: now[0])
    for name in ("a", "b", "c"):
        now[0] += HOUR_NS
        driver.add(request(name, [1, 2], max_tokens=2), request(name + name, [1, 2], max_tokens=2))
        driver.run()
    assert {end.reason for end in driver.finishes.values()} == {FinishReason.LENGTH}


def test_the_wall_clock_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(watchdog_s=1.0, max_queue_time_s=5.0) as server:
        for seconds in (0.0, 4e9, 1.0):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: seconds)
            assert server.chat("abc")["choices"][0]["message"]["content"] == "abc"


SERVER = """
import dataclasses
from tests.api.scripted_server import running_server
with running_server(max_queue_time_s=5.0) as server:
    engine = server.service.engine
    engine._config = dataclasses.replace(engine._config, watchdog_s=0.2)  # below what settings allow: a short test
    server.session.before_call = lambda call: time.sleep(0.004)
    print(server.port, flush=True)
    input()
"""


def test_a_server_that_was_stopped_for_longer_than_its_watchdog_goes_on() -> None:
    command = [sys.executable, "-c", "import time" + SERVER]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            base_url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            body = {"messages": [user("*abcd")], "max_tokens": 120, "stream": True}
            with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=20) as response:
                pieces = response.iter_bytes()
                received = [next(pieces)]
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.7)
                process.send_signal(signal.SIGCONT)
                received += pieces
            assert content_of(chunks_of(b"".join(received))) == "abcd" * 30
            assert httpx.get(f"{base_url}/v1/health/live").status_code == 200
        finally:
            process.send_signal(signal.SIGCONT)
            process.stdin.close()
            process.wait(20)
