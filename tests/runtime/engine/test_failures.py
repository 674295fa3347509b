"""What a failing call costs: its own requests, the whole engine, or nobody anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import numpy as np
import pytest

from runtime.engine.async_engine import AsyncEngine, EngineState
from runtime.engine.call_health import MAX_FAILED_CALLS
from runtime.engine.config import EngineConfig
from runtime.errors import DeviceError, DeviceLost, DeviceOutOfMemory, EngineUnavailable
from runtime.events import FinishEvent, FinishReason
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.async_driver import WARM_UP_CALLS, Gate, with_engine
from tests.runtime.engine.test_slot_moves import HIGH, LOW, MIDDLE, check_answers, with_a_hole
from tests.runtime.engine_driver import Driver, adding_reply, request

PROMPT = list(range(1, 61))


def failing(error: Exception, when: Callable[[Call], bool] = lambda _call: True) -> Callable[[Call], None]:
    def raise_it(call: Call) -> None:
        if when(call):
            raise error

    return raise_it


def refuse_copies(driver: Driver, *numbers: int) -> None:
    """The copies of these numbers fail, counted from now on; all of them without numbers."""
    done = driver.session.count("copy")

    def refuse(_call: Call) -> None:
        if not numbers or driver.session.count("copy") - done in numbers:
            raise DeviceError("no such pitch")

    driver.session.before_copy = refuse


def prefilled(driver: Driver, since: int) -> int:
    return sum(len(call.tokens) for call in driver.session.calls[since:] if call.kind == "prefill")


def test_a_failing_decode_ends_its_sequences_and_the_engine_recovers() -> None:
    driver = Driver()
    error = MemoryError("no memory for step 3")
    driver.session.before_call = failing(
        error, lambda call: call.kind == "decode" and driver.session.count("decode") == 3
    )
    driver.add(request("a", [1, 2], max_tokens=9), request("b", [3, 4], max_tokens=9))
    driver.run()
    assert {event.error for event in driver.finishes.values()} == {"MemoryError: no memory for step 3"}
    driver.add(request("c", [1, 2], max_tokens=9))
    driver.run()
    assert driver.tokens["c", 0] == adding_reply([1, 2], 9)


def test_a_failing_prefill_ends_its_own_sequence_only() -> None:
    driver = Driver()
    driver.session.before_call = failing(DeviceError("cannot"), lambda call: len(call.tokens) == 60)
    driver.add(request("a", [1, 2], max_tokens=9), request("b", PROMPT))
    driver.run()
    assert driver.finishes["b", 0].reason is FinishReason.ERROR
    assert driver.tokens["a", 0] == adding_reply([1, 2], 9)


def test_a_row_of_nan_ends_that_row_only() -> None:
    def nan_for_nine(history: list[int]) -> object:
        return np.full(512, np.nan, np.float32) if history[0] == 9 and len(history) > 4 else sum(history) % 500

    driver = Driver(script=nan_for_nine)  # type: ignore[arg-type]
    driver.add(request("bad", [9, 1]), request("good", [1, 2]))
    driver.run()
    assert driver.finishes["bad", 0].error == "the model produced no usable number"
    assert driver.tokens["good", 0] == adding_reply([1, 2], 8)


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_a_prefix_that_cannot_be_copied_is_computed(piece: int, caplog: pytest.LogCaptureFixture) -> None:
    """58 rows in pieces of 20: what came before the failing piece is kept, and counted."""
    driver = Driver(config=EngineConfig(copy_bytes_per_step=20))
    driver.add(request("source", PROMPT, max_tokens=40), request("stream", [1, 2], max_tokens=40))
    driver.step()
    calls = len(driver.session.calls)
    refuse_copies(driver, piece)
    driver.add(request("branch", PROMPT, max_tokens=6))
    driver.run()
    kept = 20 * (piece - 1)
    assert driver.session.count("copy") == piece
    assert prefilled(driver, calls) == 60 - kept
    assert driver.finishes["branch", 0].num_cached_tokens == kept
    assert driver.engine.stats().prefix_hit_tokens == kept
    assert driver.engine.stats().prefix_query_tokens == 60 + 2 + 60
    assert driver.tokens["branch", 0] == adding_reply(PROMPT, 6)
    assert driver.tokens["source", 0] == adding_reply(PROMPT, 40)
    assert "cache rows were not copied, which the step does without: DeviceError: no such pitch" in caplog.text


@pytest.mark.parametrize("refused", [1, 2])
def test_of_two_prefixes_in_a_step_only_the_one_that_cannot_be_copied_is_computed(refused: int) -> None:
    driver = Driver(num_slots=5)
    for name, prompt in (("one", PROMPT), ("two", MIDDLE)):
        driver.add(request(name, prompt, max_tokens=2))
        driver.run()
    refuse_copies(driver, refused)
    calls = len(driver.session.calls)
    driver.add(
        request("first", [*PROMPT[:40], 7, 8], max_tokens=4), request("second", [*MIDDLE[:40], 7, 8], max_tokens=4)
    )
    driver.step()
    assert [call.kind for call in driver.session.calls[calls:]] == ["copy", "copy", "prefill"]
    driver.run()
    assert prefilled(driver, calls) == 42 + 2
    cached = [driver.finishes[name, 0].num_cached_tokens for name in ("first", "second")]
    assert cached == ([0, 40] if refused == 1 else [40, 0])
    assert driver.tokens["first", 0] == adding_reply([*PROMPT[:40], 7, 8], 4)
    assert driver.tokens["second", 0] == adding_reply([*MIDDLE[:40], 7, 8], 4)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_move_that_fails_leaves_its_sequence_where_it_is_and_is_not_tried_again_at_once(number: int) -> None:
    """The retained rows take four copies to the empty slot, then the shorter end four into the hole."""
    driver = with_a_hole()
    refuse_copies(driver, number)
    for _ in range(12):
        driver.step()
    assert driver.session.count("copy") == number
    assert driver.session.calls[-1].slots == (0, 2)  # the hole is there
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8])
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


def test_a_move_is_tried_again_once_somebody_left() -> None:
    driver = with_a_hole(copy_rows=2**20)
    refuse_copies(driver, 1)
    driver.step()
    driver.add(request("brief", [5, 6], max_tokens=3))
    while ("brief", 0) not in driver.finishes:
        driver.step()
        assert driver.session.count("copy") == 1
    driver.step()
    assert driver.session.count("copy") == 2
    assert driver.session.calls[-1].slots == (1, 2)
    check_answers(driver, low=LOW, high=HIGH)


def test_a_move_after_one_that_failed_is_taken_back_too() -> None:
    """In one step: the retained rows to the empty slot, which fails, and the end into the hole, which was planned."""
    driver = with_a_hole(copy_rows=2**20)
    refuse_copies(driver, 1)
    driver.step()
    assert driver.session.calls[-1].slots == (0, 2)
    assert driver.session.count("copy") == 1
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8])


def test_a_move_before_one_that_failed_stands() -> None:
    driver = with_a_hole(copy_rows=2**20)
    refuse_copies(driver, 2)
    driver.step()
    assert [call.slots for call in driver.session.calls if call.kind == "copy"] == [(1, 3), (0, 1)]
    assert driver.session.calls[-1].slots == (0, 2)
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8])
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


def test_a_shortage_of_memory_stays_with_its_request() -> None:
    driver = Driver()
    long_prompt = failing(DeviceOutOfMemory("no room"), lambda call: call.kind == "prefill" and len(call.tokens) == 60)
    driver.session.before_call = long_prompt
    driver.add(request("small", [1, 2], max_tokens=60))
    for number in range(3 * MAX_FAILED_CALLS):
        driver.add(request(f"large{number}", PROMPT))
        driver.step()
    driver.run()
    assert {end.error for key, end in driver.finishes.items() if key[0] != "small"} == {"DeviceOutOfMemory: no room"}
    assert driver.tokens["small", 0] == adding_reply([1, 2], 60)


def lost(driver: Driver) -> str:
    with pytest.raises(DeviceLost) as caught:
        driver.run()
    return str(caught.value)


@pytest.mark.parametrize("kind", ["prefill", "decode", "copy"])
def test_a_lost_device_ends_the_engine_at_once(kind: str) -> None:
    driver = Driver()
    driver.add(request("first", PROMPT, max_tokens=9))
    driver.step()
    driver.session.before_call = failing(DeviceLost("an illegal address"), lambda call: call.kind == kind)
    driver.session.before_copy = driver.session.before_call
    driver.add(request("second", PROMPT, max_tokens=9))
    assert lost(driver) == "an illegal address"
    driver.take(driver.engine.fail_all("gone"))
    assert {key: end.error for key, end in driver.finishes.items()} == {("first", 0): "gone", ("second", 0): "gone"}
    assert not driver.engine.has_work


def test_who_ended_in_the_step_that_lost_the_device_is_told_so() -> None:
    """``done`` gets its last token from the decode call, and the prefill after it loses the device."""
    driver = Driver()
    driver.add(request("done", [1, 2], max_tokens=2))
    driver.step()
    driver.session.before_call = failing(DeviceLost("lost"), lambda call: call.kind == "prefill")
    driver.add(request("next", [3, 4]))
    assert lost(driver) == "lost"
    driver.take(driver.engine.fail_all("gone"))
    assert driver.tokens["done", 0] == adding_reply([1, 2], 2)
    assert driver.finishes["done", 0].reason is FinishReason.LENGTH
    assert (driver.finishes["next", 0].reason, driver.finishes["next", 0].error) == (FinishReason.ERROR, "gone")
    assert driver.engine.fail_all("again") == []


def test_what_was_told_already_is_not_told_again() -> None:
    driver = Driver()
    driver.add(request("done", [1, 2], max_tokens=1), request("a", [3, 4], max_tokens=9))
    driver.step()
    told = driver.engine.fail_all("gone outside of a step")
    assert [(event.request_id, type(event)) for event in told] == [("a", FinishEvent)]


@pytest.mark.parametrize("error", [DeviceError("busy"), MemoryError("none left"), DeviceOutOfMemory("none left")])
def test_calls_that_only_fail_end_the_engine_and_one_that_works_between_does_not(error: Exception) -> None:
    driver = Driver()
    driver.session.before_call = failing(error)
    for number in range(MAX_FAILED_CALLS - 1):
        driver.add(request(f"r{number}", [1, 2]))
        driver.run()
    driver.session.before_call = lambda _call: None
    driver.add(request("works", [1, 2]))
    driver.run()
    driver.session.before_call = failing(error)
    for number in range(MAX_FAILED_CALLS - 1):
        driver.add(request(f"s{number}", [1, 2]))
        driver.run()
    driver.add(request("last", [1, 2]))
    told = f"{MAX_FAILED_CALLS} calls failed in a row and none worked; the last: {type(error).__name__}: {error}"
    assert lost(driver) == told


def test_a_prompt_that_is_computed_shows_that_the_device_works() -> None:
    driver = Driver()
    long_prompt = failing(DeviceError("no"), lambda call: len(call.tokens) == 60)
    driver.session.before_call = long_prompt
    for number in range(3 * MAX_FAILED_CALLS):
        driver.add(request(f"long{number}", PROMPT), request(f"short{number}", [1, 2], max_tokens=1))
        driver.run()
    assert driver.session.count("decode") == 0
    assert {end.reason for key, end in driver.finishes.items() if "short" in key[0]} == {FinishReason.LENGTH}


def test_a_copy_that_works_proves_nothing_and_one_that_fails_counts() -> None:
    """Copies are queued; only numbers that come back show that the device works."""
    driver = Driver(num_slots=3)
    driver.add(request("source", PROMPT, max_tokens=2))
    driver.run()
    driver.session.before_call = failing(DeviceError("broken"))
    # A failed prefill gives up the slot's rows, so each newcomer copies again from the source, which works, and fails.
    for number in range(MAX_FAILED_CALLS - 1):
        driver.add(request(f"r{number}", [*PROMPT[:40], 7, 8, 9]))
        driver.run()
    assert driver.session.count("copy") == MAX_FAILED_CALLS - 1
    refuse_copies(driver)
    driver.add(request("last", [*PROMPT[:40], 7, 8, 9]))
    assert "DeviceError: no such pitch" in lost(driver)


def test_a_lost_device_is_red_and_every_request_ends_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(free=WARM_UP_CALLS + 3)

    def lose_at_the_gate(call: Call) -> None:
        gate(call)
        if gate.opened.is_set():
            raise DeviceLost("CUDA failed running a step: cudaErrorIllegalAddress")

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        seen = engine.submit(request("seen", [1, 2], max_tokens=60))
        await asyncio.to_thread(gate.reached.wait, 60)
        unseen = engine.submit(request("unseen", [3, 4], n=2))
        gate.opened.set()
        for stream, count in ((seen, 1), (unseen, 2)):
            ends = [event async for some in stream for event in some if isinstance(event, FinishEvent)]
            assert [(end.index, end.reason) for end in ends] == [(i, FinishReason.ERROR) for i in range(count)]
        assert engine.state is EngineState.DEAD
        with pytest.raises(EngineUnavailable):
            engine.submit(request("late", [1, 2]))

    with caplog.at_level(logging.CRITICAL, "powertrain.engine"):
        with_engine(body, ScriptedSession(adding, before_call=lose_at_the_gate))
