"""Ranges for NVIDIA's profilers: one per call, closed whatever the call does, and nothing else is changed."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import BackendError, DeviceError
from runtime.events import TokenEvent
from runtime.session.nvtx_session import marking
from runtime.session.selected import Selected
from runtime.session.session import SessionInfo
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.engine_driver import adding_reply, request

PROMPT = list(range(1, 41))


class HostDomain:
    """``nvtx``'s domain: ranges are a stack. ``ranges`` are those that were closed, in order."""

    def __init__(self) -> None:
        self.open: list[tuple[str, int]] = []
        self.ranges: list[tuple[str, int]] = []

    def push_range(self, attributes: Any = None, *, message: str, payload: int) -> None:
        assert attributes is None
        assert type(payload) is int
        self.open.append((message, payload))

    def pop_range(self) -> None:
        self.ranges.append(self.open.pop())


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> HostDomain:
    made = {"powertrain": HostDomain()}
    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(get_domain=made.__getitem__))
    return made["powertrain"]


def test_every_call_is_a_range_with_its_rows(domain: HostDomain) -> None:
    inner = ScriptedSession(adding)
    engine = Engine(marking(lambda: inner)(), EngineConfig(prefill_chunk_tokens=30, idle_prefill_chunk_tokens=30))
    engine.add(request("pair", PROMPT, max_tokens=2, n=2))
    tokens: list[int] = []
    while engine.has_work:
        tokens += [event.token_id for event in engine.step().events if isinstance(event, TokenEvent)]
    assert sorted(tokens) == sorted(2 * adding_reply(PROMPT, 2))
    rows = {"prefill": lambda call: len(call.tokens), "decode": lambda call: len(call.tokens), "copy": _copied}
    assert domain.ranges == [(call.kind, rows[call.kind](call)) for call in inner.calls]
    assert {name for name, _ in domain.ranges} == {"prefill", "decode", "copy"}
    assert not domain.open
    engine.session.close()
    assert inner.closed
    assert (engine.session.info, engine.session.run_ns) == (inner.info, inner.run_ns)


def test_a_call_that_is_launched_ahead_is_two_ranges(domain: HostDomain) -> None:
    class Ahead(ScriptedSession):
        @property
        def info(self) -> SessionInfo:
            return replace(super().info, runs_ahead=True)

        def launch(self, *call: Any) -> None:
            self.answer = self.decode_tokens(*call)

        def wait(self) -> Selected:
            return self.answer

    inner = Ahead(adding)
    inner.rows[:2] = [[5], [7]]
    session: Any = marking(lambda: inner)()
    session.launch(np.array([0, 1]), np.array([1, 2]), np.array([1, 1]), None)
    assert [int(row.argmax()) for row in session.wait().logits([0, 1])] == [6, 9]
    assert domain.ranges == [("launch", 2), ("wait", 0)]
    plain: Any = marking(lambda: ScriptedSession(adding))()
    with pytest.raises(DeviceError, match="launches nothing ahead"):
        plain.wait()


def _copied(call: Call) -> int:
    return call.start


def test_a_copy_counts_the_rows_that_it_copies(domain: HostDomain) -> None:
    inner = ScriptedSession(adding)
    inner.rows[:2] = [[1, 2, 3, 4, 5], [1, 2]]
    marking(lambda: inner)().copy_slot(0, 1, 5, 2)
    assert domain.ranges == [("copy", 3)]
    assert inner.rows[1] == [1, 2, 3, 4, 5]


def test_a_call_that_fails_closes_its_range(domain: HostDomain) -> None:
    def fail(_call: Call) -> None:
        raise DeviceError("no")

    inner = ScriptedSession(adding, before_call=fail, before_copy=fail)
    session = marking(lambda: inner)()
    inner.rows[0] = [1, 2]
    for kind in ("copy_slot", "prefill"):
        with pytest.raises(DeviceError):
            getattr(session, kind)(0, *((1, 2) if kind == "copy_slot" else (_array(3), 0, 1)))
    assert domain.ranges == [("copy", 2), ("prefill", 3)]


def _array(length: int) -> Any:
    import numpy as np

    return np.arange(length)


def test_without_the_package_the_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(BackendError, match=r"nvtx is on but the package nvtx is missing: .*install.*nvtx"):
        marking(lambda: ScriptedSession(adding))


@pytest.mark.skipif(importlib.util.find_spec("nvtx") is None, reason="nvtx is not installed")
def test_the_real_package_takes_the_ranges() -> None:
    session = marking(lambda: ScriptedSession(adding))()
    assert session.prefill(0, _array(3), 0, 1).shape == (1, 512)
