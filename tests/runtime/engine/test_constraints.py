"""Choices under a constraint: which tokens come, how they end, who waits for a late mask, and that nothing leaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.engine.config import EngineConfig
from runtime.errors import DeviceError
from runtime.events import FinishReason, TokenEvent
from tests.fakes import Call
from tests.runtime.engine_driver import Driver, adding_reply, request
from tests.runtime.scripted_constraint import END, Rule, ScriptedConstraint, by_fives, only, ruled_reply

PROMPT = list(range(1, 41))


def test_every_token_from_the_first_on_is_of_its_own_mask() -> None:
    driver, constraint = Driver(), ScriptedConstraint(by_fives)
    driver.add(request("a", PROMPT, max_tokens=12, constraint=constraint), request("b", [3, 4], max_tokens=12))
    driver.run()
    assert driver.tokens["a", 0] == ruled_reply(PROMPT, 12)
    assert driver.tokens["a", 0] != adding_reply(PROMPT, 12)
    assert driver.tokens["b", 0] == adding_reply([3, 4], 12)
    assert driver.finishes["a", 0].reason is FinishReason.LENGTH
    assert constraint.matchers[0].committed == tuple(ruled_reply(PROMPT, 11))  # the last one ended the choice
    assert constraint.all_closed


def test_choices_of_one_request_and_requests_of_one_constraint_have_their_own_matchers() -> None:
    driver, constraint = Driver(), ScriptedConstraint(by_fives)
    driver.add(request("a", PROMPT, max_tokens=9, n=3, constraint=constraint, temperature=1.0, seed=5))
    driver.add(request("b", [7, 8], max_tokens=4, constraint=constraint))
    driver.run()
    assert len(constraint.matchers) == 4
    assert constraint.all_closed
    assert driver.tokens["b", 0] == ruled_reply([7, 8], 4)
    for index in range(3):
        assert [token % 5 for token in driver.tokens["a", index]] == [0, 1, 2, 3, 4, 0, 1, 2, 3]


def test_a_text_that_cannot_go_on_ends_with_a_stop() -> None:
    driver, constraint = Driver(), ScriptedConstraint(only(9, 8, 7))
    driver.add(request("a", [1, 2], eos=END, constraint=constraint))
    driver.add(request("b", [1, 2], eos=END, constraint=constraint, ignore_eos=True))
    driver.run()
    for name in "ab":
        assert driver.tokens[name, 0] == [9, 8, 7, END]
        assert driver.finishes[name, 0].reason is FinishReason.STOP
    assert constraint.all_closed


def test_an_ignored_end_comes_only_where_nothing_else_may() -> None:
    def up_to_eight(generated: tuple[int, ...]) -> set[int]:
        return {END} if len(generated) == 8 else {7, END}

    for ignore_eos, length in ((False, 0), (True, 8)):
        driver, constraint = Driver(script=lambda _: END), ScriptedConstraint(up_to_eight)
        driver.add(request("a", [1, 2], 20, eos=END, constraint=constraint, ignore_eos=ignore_eos))
        driver.run()
        assert driver.tokens["a", 0] == [7] * length + [END]
        assert driver.finishes["a", 0].reason is FinishReason.STOP


def test_stop_tokens_come_only_where_the_text_satisfies_the_constraint() -> None:
    driver, constraint = Driver(script=lambda _: 4), ScriptedConstraint(by_fives)
    driver.add(request("a", [1, 2], 20, eos=END, constraint=constraint, stop_token_ids=frozenset({4, 9, END})))
    driver.run()
    assert driver.tokens["a", 0] == [0, 1, 2, 3, 14, 4]  # 4 is the fifth of no text, but may end one of five tokens
    assert (driver.finishes["a", 0].reason, driver.finishes["a", 0].stop_token_id) == (FinishReason.STOP, 4)


@pytest.mark.parametrize(
    ("rule", "sampling", "named"),
    [
        (only(9), {"min_tokens": 3}, "the constraint on the answer, min_tokens"),
        (only(9), {"allowed_token_ids": (5, END)}, "the constraint on the answer, allowed_token_ids"),
        (only(9), {"bad_words": ((9,),)}, "the constraint on the answer, bad_words"),
        (only(9), {"stop_token_ids": frozenset({9})}, "the constraint on the answer, stop_token_ids"),
        (lambda _: set(), {}, "the constraint on the answer"),
    ],
    ids=["min_tokens", "allowed_token_ids", "bad_words", "stop_token_ids", "no token"],
)
def test_a_contradiction_is_an_error_that_names_the_fields(rule: Rule, sampling: dict[str, Any], named: str) -> None:
    driver, constraint = Driver(), ScriptedConstraint(rule)
    driver.add(request("a", [1, 2], eos=END, constraint=constraint, **sampling), request("b", [3, 4]))
    driver.run()
    finish = driver.finishes["a", 0]
    assert (finish.reason, finish.for_client) == (FinishReason.ERROR, True)
    assert finish.error == f"no token may come next by all of these: {named}"
    assert set(driver.tokens.get(("a", 0), [])) <= {9}
    assert driver.tokens["b", 0] == adding_reply([3, 4], 8)
    assert constraint.all_closed


def test_no_other_rule_wins_over_the_constraint() -> None:
    driver, constraint = Driver(), ScriptedConstraint(by_fives)
    wishes: dict[str, Any] = {
        "logit_bias": ((3, 100.0), (END, 100.0)),
        "frequency_penalty": -2.0,
        "repetition_penalty": 0.1,
    }
    driver.add(request("a", [3, 3], 5, eos=END, constraint=constraint, temperature=2.0, seed=3, **wishes))
    driver.run()
    assert [token % 5 for token in driver.tokens["a", 0]] == [0, 1, 2, 3, 4]


def test_a_late_mask_holds_its_own_row_only() -> None:
    late = ScriptedConstraint(by_fives, late=lambda position: 3 if position % 2 else 0)
    driver = Driver(max_model_len=50)  # the late one fills its slot
    driver.add(request("low", [1, 2], 40), request("late", PROMPT, 10, constraint=late), request("high", [5, 6], 40))
    driver.step()
    while ("late", 0) not in driver.finishes:
        before = {name: len(driver.tokens[name, 0]) for name in ("low", "high")}
        driver.step()
        assert {name: len(driver.tokens[name, 0]) - 1 for name in before} == before
    assert (
        driver.engine.stats().num_steps == 10 + 5 * 2 + 1
    )  # a mask found two steps later costs two, the last token's a third
    driver.run()
    assert driver.tokens["late", 0] == ruled_reply(PROMPT, 10)
    assert driver.tokens["low", 0] == adding_reply([1, 2], 40)
    assert driver.tokens["high", 0] == adding_reply([5, 6], 40)
    assert all(wait == 0 for wait in late.matchers[0].waits)


def test_a_late_first_mask_holds_the_row_after_its_prompt() -> None:
    late = ScriptedConstraint(by_fives, late=lambda position: 4 if position == 0 else 0)
    driver = Driver()
    driver.add(request("late", PROMPT, 5, n=2, constraint=late, seed=1), request("b", [5, 6], 9))
    driver.run()
    assert [driver.tokens["late", index] for index in range(2)] == [ruled_reply(PROMPT, 5)] * 2
    assert driver.tokens["b", 0] == adding_reply([5, 6], 9)


def test_with_nothing_else_to_do_the_engine_sleeps_until_the_mask_is_there() -> None:
    late = ScriptedConstraint(by_fives, late=lambda _: 5)
    driver = Driver()
    driver.add(request("late", [1, 2], 3, constraint=late))
    driver.run()
    assert driver.tokens["late", 0] == ruled_reply([1, 2], 3)
    waits = late.matchers[0].waits
    assert sum(wait > 0 for wait in waits) >= len(waits) // 3
    assert max(waits) <= 0.005  # an abort, or a newcomer, waits no longer
    assert driver.engine.stats().num_steps == 3  # looking is no step


@pytest.mark.parametrize(
    ("call", "num_tokens"),
    [(call, position) for call in ("start", "wait", "mask", "commit", "ends_within") for position in (0, 2)]
    + [("matcher", 0), ("admits", 2)],
)
def test_a_failing_matcher_ends_its_own_choice_only(call: str, num_tokens: int) -> None:
    constraint = ScriptedConstraint(by_fives, fail_at=(call, num_tokens), defers=lambda _: call == "admits")
    driver = Driver()
    driver.add(request("a", PROMPT, constraint=constraint, watch_ends=True), request("b", [3, 4]))
    driver.run()
    finish = driver.finishes["a", 0]
    assert (finish.reason, finish.error, finish.for_client) == (FinishReason.ERROR, f"{call} failed", True)
    assert driver.tokens.get(("a", 0), []) == ruled_reply(PROMPT, num_tokens + (call == "commit"))
    assert driver.tokens["b", 0] == adding_reply([3, 4], 8)
    assert constraint.all_closed
    driver.add(request("again", PROMPT, 3))
    driver.run()
    computed = (call, num_tokens) not in {("matcher", 0), ("start", 0)}  # these fail before the prompt is
    assert driver.finishes["again", 0].num_cached_tokens == (38 if computed else 0)  # sound rows stay on offer
    assert driver.tokens["again", 0] == adding_reply(PROMPT, 3)


def test_a_held_choice_can_be_aborted_and_the_engine_can_die_with_it() -> None:
    for die in (False, True):
        constraint = ScriptedConstraint(by_fives, late=lambda _: 10_000)
        driver = Driver(num_slots=2)
        driver.add(request("held", PROMPT, n=2, constraint=constraint), request("waiting", [3], constraint=constraint))
        for _ in range(4):
            driver.step()
        assert len(constraint.matchers) == 2  # who waits for a slot has none
        if die:
            driver.take(driver.engine.fail_all("dead"))
        else:
            driver.abort("held")
            driver.abort("waiting")
        assert len(driver.finishes) == 3
        assert constraint.all_closed
        assert not driver.engine.has_work


def test_matchers_are_closed_when_a_prompt_is_aborted_or_a_call_fails() -> None:
    constraint = ScriptedConstraint(by_fives)
    driver = Driver(config=EngineConfig(idle_prefill_chunk_tokens=16))

    def fail(call: Call) -> None:
        if call.kind == "decode" or call.tokens[:1] == (99,):
            raise DeviceError("lost")

    driver.session.before_call = fail
    driver.add(request("aborted", PROMPT, constraint=constraint))
    driver.step()
    driver.abort("aborted")
    driver.add(request("decoding", [1, 2], constraint=constraint), request("prompt", [99, 98], constraint=constraint))
    driver.run()
    assert len(constraint.matchers) == 3
    assert constraint.all_closed
    assert {finish.for_client for finish in driver.finishes.values()} == {False}


def test_a_row_without_a_number_is_the_models_fault_under_a_constraint_too() -> None:
    for bad in (np.full(512, np.nan), np.full(512, -np.inf)):
        constraint = ScriptedConstraint(only(9))
        driver = Driver(script=lambda _, row=bad: row.astype(np.float32))  # type: ignore[misc]
        driver.add(request("a", [1, 2], constraint=constraint))
        driver.run()
        assert driver.finishes["a", 0].error == "the model produced no usable number"
        assert not driver.finishes["a", 0].for_client
        assert constraint.all_closed


def test_the_only_token_is_taken_without_a_look_at_the_others() -> None:
    row = np.full(512, np.nan, np.float32)
    row[[8, 9]] = -3.0
    driver, constraint = Driver(script=lambda _: row), ScriptedConstraint(only(9, 8))
    driver.add(request("a", [1, 2], 2, constraint=constraint))
    driver.run()
    assert driver.tokens["a", 0] == [9, 8]


def cycle(history: list[int]) -> int:
    """A text that repeats itself every five tokens, with a surprise at every seventeenth."""
    return 400 + len(history) if len(history) % 17 == 0 else 10 + len(history) % 5


def no_thirteen(generated: tuple[int, ...]) -> set[int]:
    """A rule that refuses a token of ``cycle``'s period once in a while."""
    return set(range(500)) - ({13} if len(generated) % 20 > 12 else set())


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5}])
def test_drafts_are_cut_by_the_constraint_and_change_nothing(late: int, sampling: dict[str, Any]) -> None:
    drivers = [Driver(script=cycle, config=EngineConfig(max_draft_tokens=limit)) for limit in (0, 8)]
    for driver in drivers:
        constraint = ScriptedConstraint(no_thirteen, late=lambda position: late if position % 4 == 0 else 0)
        driver.add(request("a", [7, 8, 9], 80, constraint=constraint, **sampling))
        driver.run()
        assert constraint.all_closed
        assert constraint.matchers[0].committed == tuple(driver.tokens["a", 0][:-1])
    assert drivers[0].tokens == drivers[1].tokens
    calls = [driver.session.count("prefill") + driver.session.count("decode") for driver in drivers]
    assert calls[1] < calls[0] == 80
    for call in drivers[1].session.calls[1:]:
        if call.kind == "prefill":  # the last token and its draft, at ``start`` of the history [7, 8, 9, ...]
            generated = tuple(drivers[1].tokens["a", 0])
            begin = call.start + 1 - 3
            for place, token in enumerate(call.tokens[1:]):
                assert token in no_thirteen((*generated[:begin], *call.tokens[1 : 1 + place]))


def test_a_late_mask_in_a_draft_with_one_token_twice_holds_the_row_there() -> None:
    driver = Driver(script=lambda history: (10, 10, 10, 11)[len(history) % 4], config=EngineConfig(max_draft_tokens=8))
    constraint = ScriptedConstraint(lambda _: {10, 11}, late=lambda position: 2 if position % 7 == 3 else 0)
    driver.add(request("a", [7, 8, 9], 60, constraint=constraint))
    while driver.engine.has_work:
        driver.step()
        for sequence in driver.engine._scheduler.running:
            assert sequence.num_computed == len(sequence.token_ids) - (not sequence.is_held)
    assert driver.tokens["a", 0] == [(10, 10, 10, 11)[place % 4] for place in range(3, 63)]
    assert driver.session.count("decode") + driver.session.count("prefill") < 40


@pytest.mark.parametrize("call", ["num_allowed", "forced", "wait"])
def test_a_matcher_that_fails_on_a_draft_ends_its_choice(call: str) -> None:
    constraint = ScriptedConstraint(lambda _: {10, 11, 12, 13, 14}, fail_at=(call, 9))
    driver = Driver(script=lambda history: 10 + len(history) % 5, config=EngineConfig(max_draft_tokens=8))
    driver.add(request("a", [7, 8, 9], 60, constraint=constraint))
    num_calls = 0
    while driver.engine.has_work:
        num_calls = len(driver.session.calls)
        driver.step()
    if call != "wait":  # which fails on a drawn token of the draft too
        assert len(driver.session.calls) == num_calls  # who is over is not computed
    finish = driver.finishes["a", 0]
    assert (finish.error, finish.for_client) == (f"{call} failed", True)
    assert 9 <= len(driver.tokens["a", 0]) < 30
    assert constraint.all_closed


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9, "seed": 5}])
def test_forced_tokens_are_drawn_from_one_call_beside_nobody(sampling: dict[str, Any]) -> None:
    def flat(history: list[int]) -> np.ndarray:
        return np.random.default_rng(sum(history)).standard_normal(512).astype(np.float32)

    def keys_and_values(generated: tuple[int, ...]) -> set[int]:
        place = len(generated) % 12
        return {100 + place} if place < 10 else set(range(500))

    replies, calls = [], []
    for limit in (0, 4):
        driver = Driver(script=flat, config=EngineConfig(max_draft_tokens=limit))
        constraint = ScriptedConstraint(keys_and_values)
        driver.add(request("a", PROMPT, 24, constraint=constraint, **sampling))
        driver.run()
        assert constraint.all_closed
        replies.append(driver.tokens)
        calls.append(driver.session.count("prefill") + driver.session.count("decode"))
    assert replies[0] == replies[1]
    assert calls == [24, 8]  # the prompt's token, 5 + 5, one, 5 + 5, one, one
    assert driver.engine.stats().accepted_tokens == 16


def test_where_text_is_forced_the_model_still_chooses_its_tokens() -> None:
    """The constraint forces a text whose usual tokens are 5 and 6, and the model writes it as 7."""
    rules: list[set[int]] = [{9}, {5, 7}, {6, END}]
    constraint = ScriptedConstraint(
        lambda generated: rules[min(len(generated), 2)],
        forces=lambda generated: [5, 6] if len(generated) == 1 else [],
    )
    driver = Driver(script=lambda history: END if history[-1] == 7 else 7, config=EngineConfig(max_draft_tokens=4))
    driver.add(request("a", [1, 2], 6, eos=END, constraint=constraint))
    for _ in range(2):
        driver.step()
    assert driver.session.calls[1].tokens == (9, 5, 6)
    lookup = driver.engine._scheduler.running[0].draft
    assert lookup is not None
    assert lookup._pause == 1  # the guess was not its own
    driver.run()
    assert driver.tokens["a", 0] == [9, 7, END]
    assert constraint.all_closed


def test_tokens_tell_where_in_them_the_text_may_end() -> None:
    driver, constraint = (
        Driver(),
        ScriptedConstraint(lambda generated: {len(generated)} | ({END} if len(generated) in {2, 3} else set())),
    )
    driver.add(request("a", [0, 0], 6, eos=END, constraint=constraint, watch_ends=True))
    driver.add(request("b", [0, 0], 6, eos=END, constraint=constraint))
    ends: dict[str, list[tuple[int, ...]]] = {"a": [], "b": []}
    while driver.engine.has_work:
        for event in driver.engine.step().events:
            if isinstance(event, TokenEvent):
                ends[event.request_id].append(event.ends)
    assert ends == {"a": [(), (1,), (0, 1), (0,), (), ()], "b": [()] * 6}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 50),  # prompt
            st.integers(1, 14),  # max_tokens
            st.integers(1, 2),  # n
            st.sampled_from([None, 0, 1, 5]),  # how late masks are; None: no constraint
            st.none() | st.integers(0, 12),  # aborted at this step
        ),
        min_size=1,
        max_size=7,
    ),
    st.integers(1, 4),
    st.sampled_from([0, 6]),
    st.sampled_from([16, 2**20]),
)
def test_any_mixture_gives_each_choice_its_own_tokens(
    lives: list[tuple[int, int, int, int | None, int | None]], num_slots: int, draft: int, copied: int
) -> None:
    config = EngineConfig(max_draft_tokens=draft, copy_bytes_per_step=copied, prefill_chunk_tokens=16)
    driver = Driver(num_slots=num_slots, config=config)
    constraints = []
    for number, (length, max_tokens, n, late, _) in enumerate(lives):
        constraint = None
        if late is not None:
            constraint = ScriptedConstraint(
                by_fives,
                late=lambda position, late=late: (late * position) % 7,  # type: ignore[misc]
                defers=lambda position, number=number: (number + position) % 3 > 0,  # type: ignore[misc]
            )
            constraints.append(constraint)
        driver.add(request(f"r{number}", list(range(length)), max_tokens, n, constraint=constraint))
    for step in range(13):
        for number, life in enumerate(lives):
            if life[4] == step:
                driver.abort(f"r{number}")
        driver.step()
    driver.run()
    for number, (length, max_tokens, n, late, abort) in enumerate(lives):
        reply = (adding_reply if late is None else ruled_reply)(list(range(length)), max_tokens)
        for index in range(n):
            got = driver.tokens.get((f"r{number}", index), [])
            assert got == (reply[: len(got)] if abort is not None else reply)
    assert all(constraint.all_closed for constraint in constraints)
