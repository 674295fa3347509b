"""One step ahead over the doubles: launched before the one before it was waited for, and never another text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.engine import ahead
from runtime.errors import DeviceError, DeviceLost
from runtime.events import FinishReason
from runtime.request import Request
from tests.runtime.engine_driver import request
from tests.runtime.scripted_constraint import ScriptedConstraint, one_of
from tests.runtime.session.gpu.heads import SHAPE
from tests.runtime.session.gpu.served import Served

V = SHAPE.vocab_size
PROMPTS = [np.random.default_rng([3, seed]).integers(0, V, 4 + 5 * seed).tolist() for seed in range(5)]


def several() -> list[Request]:
    """Every kind of rules that the device can keep to itself, ending at different times."""
    rules: list[dict[str, Any]] = [
        {"logprobs": 3},
        {"temperature": 0.9, "top_p": 0.8, "seed": 1, "logprobs": 0},
        {"temperature": 1.3, "top_k": 9, "min_p": 0.02, "seed": 2},
        {"temperature": 1.0, "seed": 3},
        {"temperature": 1.0, "seed": 4, "logit_bias": ((3, 4.0), (5, -100.0)), "bad_words": ((8,),)},
        {"temperature": 2.0, "seed": 5, "min_tokens": 6, "stop_token_ids": frozenset(range(0, V, 3)), "top_k": 5},
        {"temperature": 1.0, "seed": 8, "allowed_token_ids": (3, 4, 5, 6, 30, 95, 96)},
    ]
    return [request(f"r{i}", PROMPTS[i % 5], max_tokens=8 + i, **one) for i, one in enumerate(rules)]


@pytest.mark.parametrize("kind", ["recorded", "captured"])
def test_texts_are_the_same_and_steps_overlap(graphs: dict[str, Path], kind: str) -> None:
    """Seven requests on four slots: they come, stop and make room while calls are on their way."""
    ours = Served(graphs, kind=kind).add(*several()).run()
    theirs = Served(graphs, has_head=False).add(*several()).run()  # all drawn by the host
    assert ours.tokens == theirs.tokens
    assert {name: end.reason for name, end in ours.ends.items()} == {n: e.reason for n, e in theirs.ends.items()}
    assert {name: end.num_generated for name, end in ours.ends.items()} == {n: len(t) for n, t in ours.tokens.items()}
    for name, rows in theirs.logprobs.items():
        for mine, other in zip(ours.logprobs[name], rows, strict=True):
            assert (mine is None) == (other is None)
            assert mine is None or mine.logprob == pytest.approx(other.logprob, abs=2e-5)
    off = Served(graphs, on=False).add(*several()[:2]).run()
    assert (theirs.num_ahead, off.num_ahead) == (0, 0)
    assert ours.num_ahead >= 10
    ours.parts.session.close()


@pytest.mark.parametrize("kind", ["recorded", "compiling", "captured"])
def test_the_next_call_is_launched_before_this_one_is_waited_for(graphs: dict[str, Path], kind: str) -> None:
    served = Served(graphs, kind=kind).add(request("one", PROMPTS[0], max_tokens=6)).step()
    served.parts.device.order.clear()
    told: list[int] = []

    def note(_step: int) -> None:
        told.append(len(served.tokens["one"]))

    served.run(note)
    # The first token is the prompt's. Call k+1 is marked before k is waited for; nothing is launched behind the last.
    assert served.order == [
        *("mark 0", "mark 1", "wait 0"),
        *("mark 0", "wait 1"),
        *("mark 1", "wait 0"),
        *("mark 0", "wait 1"),
        "wait 0",
    ]
    assert "wait" not in served.parts.device.order[-8:]  # for all that was queued, once steps are captured
    assert told == [1, 2, 3, 4, 5]
    assert served.ends["one"].reason is FinishReason.LENGTH
    assert served.engine.stats().num_steps == 6
    assert served.tokens == Served(graphs, has_head=False).add(request("one", PROMPTS[0], max_tokens=6)).run().tokens


def stopping(graphs: dict[str, Path], prompt: list[int], at: int) -> tuple[Request, list[int]]:
    """A request that ends at its token ``at`` or soon after, one that it did not have before, and its tokens."""
    rules: dict[str, Any] = {"max_tokens": 30, "temperature": 2.0, "seed": 7}
    tokens = Served(graphs, on=False).add(request("x", prompt, **rules)).run().tokens["x"]
    place = next(place for place in range(at, 30) if tokens[place] not in tokens[:place])
    return request("one", prompt, eos=tokens[place], **rules), tokens[: place + 1]


def test_what_was_computed_behind_a_stop_is_nobodys(graphs: dict[str, Path]) -> None:
    """Not told, not counted, and its row not offered: a later prompt that begins so computes it itself."""
    one, tokens = stopping(graphs, PROMPTS[3], 4)
    served = Served(graphs).add(one).run()
    assert served.tokens["one"] == tokens
    assert (served.ends["one"].reason, served.ends["one"].num_generated) == (FinishReason.STOP, len(tokens))
    stats = served.engine.stats()
    assert stats.num_steps == len(tokens) + 1  # two read the prompt
    assert stats.step_tokens[1] == len(PROMPTS[3]) + len(tokens)
    assert served.order[-1][:4] == "wait"  # the call behind the stop was waited for, and the engine is idle
    assert served.order.count("mark 0") + served.order.count("mark 1") == len(tokens)
    # The slot holds the prompt and the tokens before the stop; what comes after is computed.
    again = [*PROMPTS[3], *tokens, 7, 8, 9]
    fresh = Served(graphs, on=False).add(request("again", again, max_tokens=5)).run()
    served.add(request("again", again, max_tokens=5)).run()
    assert served.ends["again"].num_cached_tokens == len(PROMPTS[3]) + len(tokens) - 1
    assert served.tokens["again"] == fresh.tokens["again"]


def test_a_slot_that_a_stop_freed_is_given_away_when_its_last_call_has_run(graphs: dict[str, Path]) -> None:
    """All slots are taken and two wait. None gets a slot that a call on its way writes into."""
    stop, _ = stopping(graphs, PROMPTS[2], 3)
    requests = [stop, *(request(f"r{i}", PROMPTS[i], max_tokens=12, temperature=1.0, seed=i) for i in range(3))]
    waiting = [request(f"w{i}", PROMPTS[i][::-1], max_tokens=5, temperature=1.0, seed=i) for i in range(2)]
    ours, theirs = (Served(graphs, on=on).add(*requests, *waiting) for on in (True, False))
    runner: Any = ours.parts.session._runner
    prepare = runner.prepare

    def checked(call: Any, arena: Any) -> Any:
        assert call.is_decode or ours.engine._ahead.flight is None
        return prepare(call, arena)

    runner.prepare = checked
    assert ours.run().tokens == theirs.run().tokens
    assert ours.num_ahead > 5


def test_who_is_given_up_between_launch_and_wait_leaves_the_others_alone(graphs: dict[str, Path]) -> None:
    prompts = PROMPTS[0], PROMPTS[4], PROMPTS[2]
    requests = [request(f"r{i}", prompts[i], max_tokens=20, temperature=1.0, seed=i) for i in range(3)]
    alone = Served(graphs, on=False).add(*requests).run().tokens
    served = Served(graphs).add(*requests).step(6)
    assert served.num_flying == 1
    had = list(served.tokens["r1"])
    served.take(served.engine.abort("r1"))
    # The newcomer goes on from what the slot offers, which is no more than what was committed.
    served.add(request("next", [*PROMPTS[4], *had, 5, 6, 7], max_tokens=6, temperature=1.0, seed=9)).run()
    assert served.tokens["r1"] == had == alone["r1"][: len(had)]
    assert (served.tokens["r0"], served.tokens["r2"]) == (alone["r0"], alone["r2"])
    assert served.ends["next"].num_cached_tokens == len(PROMPTS[4]) + len(had) - 1
    fresh = Served(graphs, on=False)
    fresh.add(request("next", [*PROMPTS[4], *had, 5, 6, 7], max_tokens=6, temperature=1.0, seed=9)).run()
    assert served.tokens["next"] == fresh.tokens["next"]


def test_everybody_is_given_up_while_a_call_is_on_its_way(graphs: dict[str, Path]) -> None:
    served = Served(graphs).add(request("one", PROMPTS[0], max_tokens=20)).step(3)
    served.take(served.engine.abort("one"))
    steps, has_work = served.engine.stats().num_steps, [served.engine.has_work]
    assert served.engine.step().events == []
    assert [*has_work, served.engine.has_work] == [True, False]
    assert served.engine.stats().num_steps == steps
    served.parts.session.close()


def test_a_session_closes_with_a_call_on_its_way(graphs: dict[str, Path]) -> None:
    served = Served(graphs).add(request("one", PROMPTS[0], max_tokens=20)).step(3)
    assert served.num_flying == 1
    served.parts.session.close()
    assert served.parts.device.closed


@pytest.mark.parametrize("error", [DeviceLost("gone"), DeviceError("refused")])
def test_a_call_that_fails_on_its_way_ends_its_rows_once(graphs: dict[str, Path], error: DeviceError) -> None:
    """Lost, the engine dies; else the next request is served, and the numbers of its seed are its own."""
    served = Served(graphs).add(*(request(f"r{i}", PROMPTS[i], max_tokens=20) for i in range(2))).step(4)
    before = {name: list(tokens) for name, tokens in served.tokens.items()}

    def fail() -> None:
        raise error

    served.parts.device.queue.insert(0, fail)
    if isinstance(error, DeviceLost):
        with pytest.raises(DeviceLost):
            served.step()
        served.take(served.engine.fail_all("gone"))
        assert not served.engine._scheduler.has_work
    else:
        again = request("again", PROMPTS[2], max_tokens=9, temperature=1.0, seed=4)
        served.step().add(again).run()
        assert served.tokens.pop("again") == Served(graphs, on=False).add(again).run().tokens["again"]
        served.ends.pop("again")
    assert {name: end.reason for name, end in served.ends.items()} == dict.fromkeys(before, FinishReason.ERROR)
    assert served.tokens == before


def test_a_launch_that_is_refused_costs_nobody_anything(
    graphs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    requests = [request(f"r{i}", PROMPTS[i], max_tokens=9, temperature=1.0, seed=i) for i in range(2)]
    served, launches = Served(graphs).add(*requests), []
    session: Any = served.parts.session
    launch = session.launch

    def refusing(slots: Any, token_ids: Any, *rest: Any) -> None:
        launches.append(int(token_ids[0]))
        if token_ids[0] < 0:
            raise DeviceError("no room")
        launch(slots, token_ids, *rest)

    session.launch = refusing
    assert served.run().tokens == Served(graphs, on=False).add(*requests).run().tokens
    assert sum(token_id < 0 for token_id in launches) == 1
    assert "no step is launched ahead from now on, which is slower: DeviceError: no room" in caplog.text


def test_a_call_that_fails_while_the_next_one_is_refused_is_not_taken_for_done(graphs: dict[str, Path]) -> None:
    served = Served(graphs).add(request("one", PROMPTS[0], max_tokens=20)).step(3)
    device = served.parts.device
    before = list(served.tokens["one"])

    def fail() -> None:
        device.queue.clear()
        raise DeviceError("the step broke")

    def refuse(*_: Any) -> None:
        raise DeviceError("no room")

    device.queue.insert(0, fail)
    steps: list[Any] = [*served.parts.session._steps]
    steps[0].queue = steps[1].queue = refuse
    served.step()
    assert served.tokens["one"] == before
    assert served.ends["one"].error == "DeviceError: the step broke"


def test_a_row_that_the_device_leaves_to_the_host_voids_the_row_behind_it(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a draw of the second request were not settled, twice: its text and its numbers stay."""
    requests = [request(f"r{i}", PROMPTS[i], max_tokens=24, temperature=1.5, seed=i) for i in range(2)]
    plain = Served(graphs, on=False).add(*requests).run()
    served = Served(graphs).add(*requests)
    session: Any = served.parts.session
    wait, waits = session.wait, []

    def unsettled() -> Any:
        answer = wait()
        waits.append(len(answer.chosen.tokens))
        if len(waits) in {3, 4, 9}:
            place = len(waits) % 2
            answer.chosen.settled[place] = 0
            answer.chosen.tokens[place] = (answer.chosen.tokens[place] + 1) % V
        return answer

    monkeypatch.setattr(ahead, "PAUSE_STEPS", 2)
    session.wait = unsettled
    assert served.run().tokens == plain.tokens
    assert served.num_ahead > 5
    assert len(waits) > 23 + 1  # a void row is computed again


def test_a_lane_that_was_void_pauses_what_is_launched_ahead(graphs: dict[str, Path]) -> None:
    served = Served(graphs).add(request("one", PROMPTS[0], max_tokens=40)).step(4)
    served.engine._ahead.note_void(1)
    before = served.num_ahead
    served.step(ahead.PAUSE_STEPS)
    assert served.num_ahead == before
    served.step(2)
    assert served.num_ahead > before


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 1.3},
        {"constraint": ScriptedConstraint(one_of(range(V)), vocab_size=V)},
        {"logit_bias": tuple((token_id, 1.0) for token_id in range(33))},
    ],
    ids=lambda rules: next(iter(rules)),
)
def test_whose_token_is_needed_first_is_not_launched_ahead(graphs: dict[str, Path], rules: dict[str, Any]) -> None:
    """Nor is anybody beside them, who goes ahead again when they are gone."""
    requests = [
        request("one", PROMPTS[0], max_tokens=4, temperature=1.0, seed=1, **rules),
        request("other", PROMPTS[1], max_tokens=9, temperature=1.0, seed=2),
    ]
    served = Served(graphs).add(*requests)
    while "one" not in served.ends:
        served.step()
        assert served.num_ahead == 0
    assert served.run().num_ahead >= 3
    assert served.tokens == Served(graphs, on=False).add(*requests).run().tokens


def test_a_lone_stream_that_may_be_guessed_is_not_launched_ahead(graphs: dict[str, Path]) -> None:
    one = request("one", PROMPTS[0], max_tokens=8)
    served = Served(graphs, max_draft_tokens=4).add(one).run()
    assert served.num_ahead == 0
    assert served.tokens == Served(graphs, on=False).add(one).run().tokens


def test_a_newcomer_is_read_as_soon_as_the_call_on_its_way_is_over(graphs: dict[str, Path]) -> None:
    served = Served(graphs).add(request("one", PROMPTS[0], max_tokens=40)).step(4)
    served.add(request("two", PROMPTS[1], max_tokens=3))
    served.step(2)
    assert len(served.tokens["two"]) == 1
    assert len(served.tokens["one"]) == 4 + 2


def test_sequences_still_move_to_smaller_calls(graphs: dict[str, Path]) -> None:
    """Four slots, of which three end: the last one moves down though no step is planned meanwhile."""
    requests = [request(f"r{i}", PROMPTS[i], max_tokens=3 + 38 * (i == 3)) for i in range(4)]
    served = Served(graphs).add(*requests).step(6)
    (left,) = served.engine._scheduler.running
    assert left.slot == 3
    served.step(25)
    assert left.slot == 0
    ahead_by_then = served.num_ahead
    served.run()
    assert served.num_ahead > ahead_by_then > 10
    assert served.tokens == Served(graphs, on=False).add(*requests).run().tokens
