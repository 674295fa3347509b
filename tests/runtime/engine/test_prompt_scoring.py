"""A prompt's own log-probabilities: exact values, bounded arrays, and nobody else notices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.engine.admission import Admission
from runtime.engine.config import EngineConfig
from runtime.errors import DeviceError
from runtime.events import FinishReason, PromptEvent
from runtime.session.session import FloatArray, Int64Array
from tests.fakes import CHOSEN_LOGIT, Call, adding
from tests.runtime.engine_driver import Driver, adding_reply, request
from tests.runtime.scripted_constraint import ScriptedConstraint

# One token of 512 has CHOSEN_LOGIT, the others 0: log-softmax by hand.
NORMALISER = math.log(math.exp(CHOSEN_LOGIT) + 511)
CHOSEN, OTHER = CHOSEN_LOGIT - NORMALISER, -NORMALISER
LONG = [(7 * place) % 90 for place in range(150)]


def expected(prompt: list[int]) -> list[tuple[float, int]]:
    """(log-probability, rank) of each token but the first under the ``adding`` script."""
    hits = [sum(prompt[:place]) % 500 == prompt[place] for place in range(1, len(prompt))]
    return [(CHOSEN, 1) if hit else (OTHER, 2) for hit in hits]


def check(driver: Driver, name: str, prompt: list[int]) -> None:
    found = [(score.logprobs.logprob, score.rank) for score in driver.scores[name]]
    assert [rank for _, rank in found] == [rank for _, rank in expected(prompt)]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected(prompt)], abs=1e-6)


def test_values_by_hand() -> None:
    driver = Driver()
    driver.add(request("a", [3, 3, 6, 12, 5], 2, prompt_logprobs=2))
    driver.run()
    check(driver, "a", [3, 3, 6, 12, 5])
    tops = [score.logprobs.top for score in driver.scores["a"]]
    assert [[token for token, _ in top] for top in tops] == [[3, 0], [6, 0], [12, 0], [24, 0]]
    assert [value for _, value in tops[3]] == pytest.approx([CHOSEN, OTHER], abs=1e-6)
    assert driver.tokens["a", 0] == adding_reply([3, 3, 6, 12, 5], 2)


def test_uneven_values_by_hand() -> None:
    row = np.full(512, -np.inf, np.float32)
    row[[1, 2, 3]] = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    driver = Driver(lambda _history: row)
    driver.add(request("a", [9, 2, 3, 4], 0, prompt_logprobs=1))
    driver.run()
    scores = driver.scores["a"]
    assert [score.rank for score in scores] == [2, 3, 4]
    assert [math.exp(score.logprobs.logprob) for score in scores] == pytest.approx([0.3, 0.2, 0.0], abs=1e-6)
    assert scores[2].logprobs.logprob == -9999.0
    assert [top for score in scores for top, _ in score.logprobs.top] == [1, 1, 1]


@pytest.mark.parametrize("length", [1, 2, 3, 32, 33, 34, 64, 65, 150])
def test_every_length_however_it_is_cut(length: int) -> None:
    prompt = LONG[:length]
    for chunk in (16, 33, 128):
        driver = Driver(config=EngineConfig(idle_prefill_chunk_tokens=chunk))
        sizes = recorded_sizes(driver)
        driver.add(request("a", prompt, 1, prompt_logprobs=0))
        driver.run()
        check(driver, "a", prompt)
        assert driver.tokens["a", 0] == adding_reply(prompt, 1)
        assert all(num_logits == num_tokens <= 32 for num_tokens, num_logits in sizes)
        assert length == 1 or all(num_tokens > 1 for num_tokens, _ in sizes)


def recorded_sizes(driver: Driver) -> list[tuple[int, int]]:
    """(tokens, rows of logits) of each prefill call that the driver's session gets from now on."""
    sizes: list[tuple[int, int]] = []
    prefill = driver.session.prefill

    def recording(slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        sizes.append((len(token_ids), num_logits))
        return prefill(slot, token_ids, start, num_logits)

    driver.session.prefill = recording  # type: ignore[method-assign]
    return sizes


def test_nothing_is_drawn_when_nothing_is_to_be() -> None:
    driver = Driver()
    driver.add(request("a", LONG, 0, n=3, prompt_logprobs=0))
    driver.run()
    check(driver, "a", LONG)
    assert driver.tokens == {}
    assert [driver.finishes["a", index].reason for index in range(3)] == [FinishReason.LENGTH] * 3
    assert driver.finishes["a", 0].num_generated == 0
    assert driver.session.count("decode") == 0


def test_the_prefix_cache_changes_no_score_and_keeps_what_was_scored() -> None:
    driver = Driver()
    for name, scores in (("plain", None), ("scored", 0), ("again", 0), ("reader", None)):
        driver.add(request(name, LONG, 2, prompt_logprobs=scores))
        driver.run()
    check(driver, "scored", LONG)
    assert driver.scores["again"] == driver.scores["scored"]
    cached = {name: finish.num_cached_tokens for (name, _), finish in driver.finishes.items()}
    assert cached == {"plain": 0, "scored": 0, "again": 0, "reader": len(LONG) - 2}
    assert all(tokens == adding_reply(LONG, 2) for tokens in driver.tokens.values())


def test_choices_share_one_scored_prefill() -> None:
    driver = Driver()
    driver.add(request("a", LONG, 5, n=3, prompt_logprobs=1))
    driver.run()
    check(driver, "a", LONG)
    assert sum(len(call.tokens) for call in driver.session.calls if call.kind == "prefill") == len(LONG) + 2 * 2
    assert [driver.tokens["a", index] for index in range(3)] == [adding_reply(LONG, 5)] * 3


def test_a_stream_gets_its_token_in_every_step_within_the_budget() -> None:
    driver = Driver(config=EngineConfig(prefill_chunk_tokens=40))
    driver.add(request("stream", [1, 2], 30))
    driver.step()
    driver.add(request("a", LONG, 3, prompt_logprobs=5))
    sizes = recorded_sizes(driver)
    while "a" not in driver.scores:
        before, done = len(driver.tokens["stream", 0]), sum(num_tokens for num_tokens, _ in sizes)
        driver.step()
        assert len(driver.tokens["stream", 0]) == before + 1
        assert sum(num_tokens for num_tokens, _ in sizes) - done <= 40
    driver.run()
    check(driver, "a", LONG)
    assert driver.tokens["stream", 0] == adding_reply([1, 2], 30)


def test_an_end_token_at_once_and_a_constraint() -> None:
    driver = Driver()
    driver.add(request("eos", [3, 3], 9, eos=6, prompt_logprobs=0))
    driver.add(request("held", [3, 3], 2, eos=511, prompt_logprobs=0, constraint=ScriptedConstraint(lambda _d: {9})))
    driver.run()
    assert driver.finishes["eos", 0].reason is FinishReason.STOP
    assert driver.tokens["held", 0] == [9, 9]
    check(driver, "eos", [3, 3])
    check(driver, "held", [3, 3])  # of the whole vocabulary: a constraint is on the answer


def test_aborted_midway() -> None:
    driver = Driver(config=EngineConfig(idle_prefill_chunk_tokens=64))
    driver.add(request("a", LONG, 3, prompt_logprobs=0))
    driver.step()
    driver.abort("a")
    driver.add(request("b", LONG, 3, prompt_logprobs=0))
    driver.run()
    assert driver.finishes["a", 0].reason is FinishReason.ABORT
    assert "a" not in driver.scores
    check(driver, "b", LONG)


def test_a_failing_call_ends_its_own_request_only() -> None:
    def fail(call: Call) -> None:
        if call.kind == "prefill" and call.start == 64:
            raise DeviceError("out of memory")

    driver = Driver()
    driver.add(request("good", [1, 2], 6, prompt_logprobs=0))
    driver.step()
    driver.session.before_call = fail
    driver.add(request("a", LONG, 3, prompt_logprobs=0))
    driver.run()
    assert driver.finishes["a", 0].reason is FinishReason.ERROR
    assert "a" not in driver.scores
    assert driver.tokens["good", 0] == adding_reply([1, 2], 6)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_a_row_without_usable_numbers_is_an_error(value: float) -> None:
    def script(history: list[int]) -> int | NDArray[np.float32]:
        return np.full(512, value, np.float32) if len(history) == 2 else adding(history)

    driver = Driver(script)
    driver.add(request("a", [1, 2, 3, 4], 3, prompt_logprobs=0))
    driver.run()
    finish = driver.finishes["a", 0]
    assert (finish.reason, finish.for_client) == (FinishReason.ERROR, False)
    assert ("a", 0) not in driver.tokens


def test_a_scored_prompt_tells_the_pace_of_prompts() -> None:
    admission = Admission(EngineConfig(), clock=lambda: 0)
    admission.num_slots = 4
    for name in ("a", "b"):
        admission.accept(request(name, list(range(10)), 0, prompt_logprobs=0))
    admission.note_step(10, 1_000_000_000)
    admission.note_events([PromptEvent("a", 0, ())])
    assert admission.predicted_wait_s() == pytest.approx(1.0)  # ten tokens of "b", at ten a second
