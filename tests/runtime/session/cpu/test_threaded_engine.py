"""The CPU one step ahead: calls begun before anybody asked for them, and never another text, number or thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.worker import EngineState, EngineWorker
from runtime.errors import DeviceError, DeviceLost
from runtime.events import FinishEvent, FinishReason, TokenEvent
from runtime.request import Request
from runtime.session.cpu.threaded_session import ThreadedSession
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.engine_driver import Driver, adding_reply, request
from tests.runtime.scripted_constraint import ScriptedConstraint, one_of
from tests.runtime.session.cpu.threaded_driver import WAIT_S, Ahead, Plain, V, decode_threads, on_its_thread, wandering


def ended(driver: Driver) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {name: (end.reason, end.num_generated, end.stop_token_id) for name, end in driver.finishes.items()}


def test_a_call_begins_before_the_engine_asks_for_the_token_before_it() -> None:
    """Nobody steps between token k's telling and call k+1: it begins all the same, with token k."""
    one = Ahead()
    one.add(request("one", [3, 4], max_tokens=6))
    one.step()  # the prompt
    expected = adding_reply([3, 4], 6)
    for number in range(1, 5):
        one.step()
        one.wait_begun(number + 1 if number < 5 else number)
        assert one.tokens["one", 0] == expected[: number + 1]
        assert one.session.calls[number + 1].tokens == (expected[number],)
    one.run()
    assert one.tokens["one", 0] == expected
    assert one.begun == one.session.count("decode") == 5  # none behind the last, whose end is known before
    one.close()
    assert one.session.closed


def several() -> list[Request]:
    """Every rule that needs no constraint, those that count tokens too; ends that are known and ends that are not."""
    rules: list[dict[str, Any]] = [
        {"logprobs": 3},
        {"temperature": 0.9, "top_p": 0.8, "seed": 1, "logprobs": 0},
        {"temperature": 1.3, "top_k": 9, "min_p": 0.02, "seed": 2, "n": 2, "logprobs": 2},
        {"temperature": 1.0, "seed": 3, "repetition_penalty": 1.4, "logprobs": 1},
        {"temperature": 1.0, "seed": 4, "presence_penalty": 0.9, "frequency_penalty": 0.4},
        {"temperature": 2.0, "seed": 5, "min_tokens": 4, "stop_token_ids": frozenset(range(0, V, 3)), "top_k": 5},
        {"temperature": 1.0, "seed": 6, "bad_words": ((9,), (7, 8), (30, 31))},
        {"temperature": 1.0, "seed": 8, "allowed_token_ids": tuple(range(40))},
        {"temperature": 1.5, "seed": 9, "logit_bias": tuple((token, 1.0) for token in range(40)), "eos": 11},
    ]
    return [
        request(f"r{i}", [5, 6, 7, 8, 9, i % 3, 2, 1 + i], max_tokens=6 + 2 * i, **one) for i, one in enumerate(rules)
    ]


def test_texts_numbers_and_ends_are_the_same() -> None:
    """Ten choices on three slots: they come, share prefixes, stop and make room while calls are on their way."""
    ours, theirs = Ahead(wandering, num_slots=3), Plain(wandering, num_slots=3)
    for driver in (ours, theirs):
        driver.add(*several())
        driver.run()
        driver.close()
    assert ours.tokens == theirs.tokens
    assert ours.logprobs == theirs.logprobs
    assert ended(ours) == ended(theirs)
    assert any(end.reason is FinishReason.STOP for end in ours.finishes.values())
    assert ours.begun > 20
    assert theirs.begun == 0
    ours_stats, stats = ours.engine.stats(), theirs.engine.stats()
    assert ours_stats.step_tokens[1] == stats.step_tokens[1]


def test_what_was_computed_behind_a_stop_is_nobodys() -> None:
    """Not told, not counted, and its row not offered: a prompt that begins so computes it itself."""
    prompt = list(range(3, 24))
    text = adding_reply(prompt, 9)
    one = Ahead()
    one.add(request("one", prompt, max_tokens=30, eos=text[5]))
    one.run()
    assert one.tokens["one", 0] == text[:6]
    assert ended(one) == {("one", 0): (FinishReason.STOP, 6, None)}
    assert one.begun == 6  # five tokens and one void row
    assert not one.engine.has_work
    stats = one.engine.stats()
    assert (stats.num_steps, stats.step_tokens[1]) == (6, len(prompt) + 6)
    again = [*prompt, *text[:6], 400, 401]
    one.add(request("again", again, max_tokens=5))
    one.run()
    assert one.finishes["again", 0].num_cached_tokens == len(prompt) + 5
    assert one.tokens["again", 0] == adding_reply(again, 5)
    one.close()


def test_who_is_given_up_between_launch_and_wait_leaves_the_others_alone() -> None:
    driver = Ahead()
    long = list(range(3, 24))
    prompts = {"a": [1, 2], "b": long, "c": [6, 7]}
    driver.add(*(request(name, prompt, max_tokens=20) for name, prompt in prompts.items()))
    for _ in range(5):
        driver.step()
    driver.abort("b")
    had = list(driver.tokens["b", 0])
    driver.add(request("next", [*long, *had, 9, 9], max_tokens=6))
    driver.run()
    assert driver.tokens["b", 0] == had
    assert driver.tokens["a", 0] == adding_reply([1, 2], 20)
    assert driver.tokens["c", 0] == adding_reply([6, 7], 20)
    assert driver.tokens["next", 0] == adding_reply([*long, *had, 9, 9], 6)
    assert driver.finishes["next", 0].num_cached_tokens == len(long) + len(had) - 1
    driver.add(request("alone", [1], max_tokens=9))
    driver.step()
    driver.step()
    driver.abort("alone")
    had_work = driver.engine.has_work  # a call is on its way
    driver.step()
    assert (had_work, driver.engine.has_work) == (True, False)
    driver.close()


@pytest.mark.parametrize("error", [DeviceError("it broke"), MemoryError("none left"), DeviceLost("gone"), KeyError(3)])
def test_what_fails_on_the_thread_comes_out_of_the_engine(error: Exception) -> None:
    """Its rows end once, the call behind it is not computed, and the next request has its own text and numbers."""
    driver = Ahead(wandering)
    driver.add(*(request(f"r{i}", [i + 1, 5], max_tokens=20) for i in range(2)))

    def fail(number: int) -> None:
        if number == 4:
            raise error

    driver.at_call = fail
    for _ in range(4):
        driver.step()
    before = {name: list(tokens) for name, tokens in driver.tokens.items()}
    if isinstance(error, DeviceLost | KeyError):
        with pytest.raises(type(error)):
            driver.step()
        driver.take(driver.engine.fail_all("gone"))
    else:
        driver.step()
        had_work = driver.engine.has_work
        driver.step()
        assert (had_work, driver.engine.has_work) == (True, False)
        assert driver.engine._health._in_a_row == 1
        assert driver.begun == 4
        again = request("again", [8, 8, 8], max_tokens=9, temperature=1.0, seed=4)
        plain = Plain(wandering)
        for one in (driver, plain):
            one.add(again)
            one.run()
        assert driver.tokens.pop(("again", 0)) == plain.tokens["again", 0]
        assert driver.finishes.pop(("again", 0)).reason is FinishReason.LENGTH
    assert driver.tokens == before
    assert {end.reason for end in driver.finishes.values()} == {FinishReason.ERROR}
    driver.close()


def test_a_row_without_a_number_ends_its_own_sequence_only() -> None:
    def script(history: list[int]) -> Any:
        return np.full(V, np.nan) if history[0] == 9 and len(history) > 5 else adding(history)

    driver = Ahead(script)
    driver.add(request("bad", [9, 1], max_tokens=20), request("good", [2, 1], max_tokens=20))
    driver.run()
    assert driver.finishes["bad", 0].error == "the model produced no usable number"
    assert len(driver.tokens["bad", 0]) == 4
    assert driver.tokens["good", 0] == adding_reply([2, 1], 20)
    driver.close()


def test_who_needs_its_token_first_runs_on_the_engines_thread() -> None:
    """A constraint beside others, and a lone stream that is drafted; whoever is left goes ahead again."""
    driver = Ahead(wandering)
    constraint = ScriptedConstraint(one_of(range(V)), vocab_size=V)
    driver.add(request("one", [1], max_tokens=4, constraint=constraint), request("two", [2], max_tokens=9))
    while ("one", 0) not in driver.finishes:
        driver.step()
    assert driver.begun == 0
    driver.run()
    assert driver.begun >= 3
    driver.close()
    lone = Ahead(config=EngineConfig(max_draft_tokens=3))
    lone.add(request("one", [1, 2], max_tokens=9))
    lone.run()
    assert lone.begun == 0
    assert lone.tokens["one", 0] == adding_reply([1, 2], 9)
    lone.close()


def test_switched_off_no_thread_is_started() -> None:
    driver = Ahead(config=EngineConfig(run_ahead=False))
    driver.add(request("one", [1, 2], max_tokens=9))
    driver.run()
    assert driver.begun == 0
    assert driver.tokens["one", 0] == adding_reply([1, 2], 9)
    assert not decode_threads()
    driver.close()


def test_penalties_and_phrases_go_ahead_too() -> None:
    """Their tokens are counted where they are drawn."""
    driver, plain = Ahead(wandering), Plain(wandering)
    one = request("one", [1, 2], 12, temperature=1.0, seed=3, repetition_penalty=1.5, bad_words=((3, 4), (5,)))
    for each in (driver, plain):
        each.add(one)
        each.run()
    assert driver.begun == 11
    assert driver.tokens == plain.tokens
    driver.close()


def test_a_worker_leaves_no_thread_behind() -> None:
    inner, told, ready = ScriptedSession(adding), list[Any](), threading.Event()
    done = threading.Event()

    def sink(events: list[Any]) -> None:
        told.extend(events)
        if any(isinstance(event, FinishEvent) for event in events):
            done.set()

    worker = EngineWorker(lambda: ThreadedSession(inner), EngineConfig(), sink, ready.set)
    worker.start()
    assert ready.wait(WAIT_S)
    assert worker.state is EngineState.READY
    worker.submit(request("one", [3, 4], max_tokens=12))
    assert done.wait(WAIT_S)
    worker.submit(request("two", [3, 4], max_tokens=200))
    worker.close(WAIT_S)
    assert worker.has_ended
    assert inner.closed
    assert [event.token_id for event in told if isinstance(event, TokenEvent)][:12] == adding_reply([3, 4], 12)
    assert [end.reason for end in told if isinstance(end, FinishEvent)] == [FinishReason.LENGTH, FinishReason.ABORT]


def test_times_are_the_engines_own() -> None:
    """What a call takes on the thread while the engine does something else is nobody's waiting."""
    driver = Ahead()
    driver.add(request("one", [3, 4], max_tokens=9))

    def take(call: Call) -> None:
        driver.session.run_ns += 10**12 if on_its_thread() else 7

    driver.session.before_call = take
    times = [driver.engine.step().times.run_ns]
    while driver.engine.has_work:
        times.append(driver.engine.step().times.run_ns)
    assert times[0] == 7  # the prompt, on the engine's thread
    assert len(times) == 9
    assert all(0 < time_ns < 10**11 for time_ns in times)
    driver.close()
