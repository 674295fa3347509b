"""Decode calls on a thread of their own, as their session is asked: in turn, and to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.adapter import Adapter
from runtime.errors import DeviceError
from runtime.session.cpu.threaded_session import ThreadedSession
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.session.cpu.threaded_driver import WAIT_S, Ahead


def test_what_is_asked_out_of_turn_is_refused() -> None:
    driver = Ahead()
    session, zeros = driver.threaded, np.zeros(1, np.int64)
    with pytest.raises(DeviceError, match="no decode call was launched"):
        session.wait()
    go = threading.Event()

    def wait_to_go(_number: int) -> None:
        assert go.wait(WAIT_S)

    driver.at_call = wait_to_go
    session.launch(zeros, zeros, zeros, lambda logits: [7] * len(logits))
    session.launch(zeros, zeros - 1, zeros + 1, lambda logits: [8] * len(logits))
    with pytest.raises(DeviceError, match="2 decode calls are on their way"):
        session.launch(zeros, zeros, zeros, lambda logits: [9] * len(logits))
    asked: list[Callable[[], Any]] = [
        lambda: session.decode_tokens(zeros, zeros, zeros),
        lambda: session.prefill(0, zeros, 0, 1),
        lambda: session.prefill_token(0, zeros, 0),
        lambda: session.copy_slot(0, 1, 1),
    ]
    for call in asked:
        with pytest.raises(DeviceError, match="launched and not waited for"):
            call()
    go.set()
    session.wait()
    with pytest.raises(DeviceError, match="the logits of 1 rows are gone"):
        session.wait().logits([0])
    assert driver.session.rows[0] == [0, 7]
    driver.close()


def test_a_call_may_mix_tokens_that_are_known_with_those_that_are_not() -> None:
    """And one that fails voids only what was to come of it: a call that needs none of its tokens is run."""
    driver, zeros = Ahead(), np.zeros(2, np.int64)
    session, slots = driver.threaded, np.array([1, 3])
    session.launch(slots, zeros + 5, zeros, lambda logits: [7, 8][: len(logits)])
    session.launch(slots, np.array([9, -1]), zeros + 1, lambda logits: [0] * len(logits))
    session.wait()
    session.wait()
    assert driver.session.rows == [[], [5, 9], [], [5, 8]]

    def fail(number: int) -> None:
        if number == 3:
            raise DeviceError("it broke")

    driver.at_call = fail
    session.launch(slots, zeros - 1, zeros + 2, lambda logits: [0] * len(logits))
    session.launch(slots, zeros + 4, zeros + 2, lambda logits: [6] * len(logits))
    with pytest.raises(DeviceError, match="it broke"):
        session.wait()
    session.launch(slots, zeros - 1, zeros + 3, lambda logits: [0] * len(logits))
    session.wait()
    session.wait()
    assert driver.session.rows == [[], [5, 9, 4, 6], [], [5, 8, 4, 6]]
    driver.close()


def test_closing_waits_for_the_call_that_runs_and_begins_no_other() -> None:
    driver = Ahead()
    session, zeros = driver.threaded, np.zeros(1, np.int64)
    session.launch(zeros, zeros, zeros, lambda logits: [7] * len(logits))
    session.launch(zeros, zeros - 1, zeros + 1, lambda logits: [8] * len(logits))

    def until_closing(_number: int) -> None:
        while not session._is_closing:
            threading.Event().wait(0.001)

    driver.at_call = until_closing
    driver.close()
    driver.close()
    with pytest.raises(DeviceError, match="the thread was ended"):
        session.launch(zeros, zeros, zeros, lambda logits: [7] * len(logits))
    assert driver.begun <= 1
    assert driver.session.closed


class Fitting(ScriptedSession):
    """Takes adapters."""

    def set_adapter(self, slot: int, adapter: Any) -> None:
        self.calls.append(Call(f"adapter {adapter}", (slot,), ()))


def test_adapters_reach_the_session_that_takes_them() -> None:
    inner, adapter = Fitting(adding), Adapter("one", "digest", {})
    ThreadedSession(inner).set_adapter(2, adapter)
    assert inner.calls == [Call(f"adapter {adapter}", (2,), ())]
    other = ThreadedSession(ScriptedSession(adding))
    other.set_adapter(2, None)
    with pytest.raises(ValueError, match="no room for adapters"):
        other.set_adapter(2, adapter)
