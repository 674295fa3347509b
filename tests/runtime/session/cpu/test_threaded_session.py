"""The CPU one step ahead: calls begun before anybody asked for them, and never another text, number or thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from runtime.adapter import Adapter
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.engine.worker import EngineState, EngineWorker
from runtime.errors import DeviceError, DeviceLost
from runtime.events import FinishEvent, FinishReason, TokenEvent
from runtime.request import Request
from runtime.session.cpu.threaded_session import ThreadedSession
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.engine_driver import Driver, adding_reply, request
from tests.runtime.scripted_constraint import ScriptedConstraint

WAIT_S = 20.0
"""For what must come; nothing waits as long unless it fails."""
V = 512


def wandering(history: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits of a bell that every token of the history changes."""
    return np.random.default_rng([len(history), *history[-3:]]).standard_normal(V).astype(np.float32) * 2


class Ahead(Driver):
    """An engine over a threaded session, or, when ``off``, the same without; ``begun`` counts calls on the thread."""

    off = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logprobs: dict[tuple[str, int], list[Any]] = {}
        self.begun = 0
        self.began = threading.Condition()
        self.at_call: Callable[[int], None] = lambda _number: None
        self.session.before_call = self._note
        self.threaded = ThreadedSession(self.session)
        if not self.off:
            self.engine = Engine(self.threaded, self.config, self.clock)

    def _note(self, call: Call) -> None:
        if on_its_thread():
            assert call.kind == "decode"
            with self.began:
                self.begun += 1
                self.began.notify_all()
            self.at_call(self.begun)

    def wait_begun(self, number: int) -> None:
        with self.began:
            assert self.began.wait_for(lambda: self.begun >= number, WAIT_S)

    def take(self, events: list[Any]) -> None:
        super().take(events)
        for event in events:
            if isinstance(event, TokenEvent):
                self.logprobs.setdefault((event.request_id, event.index), []).append(event.logprobs)

    def close(self) -> None:
        self.threaded.close()
        assert not decode_threads()


class Plain(Ahead):
    off = True


def on_its_thread() -> bool:
    return threading.current_thread().name == "powertrain-decode"


def decode_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "powertrain-decode"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert not decode_threads()
    yield
    assert not decode_threads()


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


def every(said: tuple[int, ...]) -> set[int]:
    del said
    return set(range(V))


def test_who_needs_its_token_first_runs_on_the_engines_thread() -> None:
    """A constraint beside others, and a lone stream that is drafted; whoever is left goes ahead again."""
    driver = Ahead(wandering)
    constraint = ScriptedConstraint(every, vocab_size=V)
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


def test_what_is_asked_out_of_turn_is_refused() -> None:
    driver = Ahead()
    session, zeros = driver.threaded, np.zeros(1, np.int64)
    with pytest.raises(DeviceError, match="no decode call was launched"):
        session.wait()
    go = threading.Event()
    driver.at_call = lambda _number: assert_set(go)
    session.launch(zeros, zeros, zeros, lambda logits: [7] * len(logits))
    session.launch(zeros, zeros - 1, zeros + 1, lambda logits: [8] * len(logits))
    with pytest.raises(DeviceError, match="2 decode calls are on their way"):
        session.launch(zeros, zeros, zeros, lambda logits: [9] * len(logits))
    asked: list[Callable[[], Any]] = [
        lambda: session.decode_tokens(zeros, zeros, zeros),
        lambda: session.decode(0, zeros, zeros),
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


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


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


def test_a_worker_leaves_no_thread_behind() -> None:
    inner, told, ready = ScriptedSession(adding), list[Any](), threading.Event()
    done = threading.Event()

    def sink(events: list[Any]) -> None:
        told.extend(events)
        if any(isinstance(event, FinishEvent) for event in events):
            done.set()

    worker = EngineWorker(lambda: ThreadedSession(inner), EngineConfig(), sink, ready.set)
    worker.start()
    assert_set(ready)
    assert worker.state is EngineState.READY
    worker.submit(request("one", [3, 4], max_tokens=12))
    assert_set(done)
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
