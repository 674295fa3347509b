"""Prompt lookup: what it guesses, how it backs off, and that it never changes what is generated."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.ngram_draft import NgramDraft
from runtime.errors import DeviceError
from tests.fakes import Call, ScriptedSession
from tests.runtime.engine_driver import Driver, adding_reply, request


def fed(tokens: list[int], max_draft_tokens: int = 8) -> NgramDraft:
    return NgramDraft(tokens, max_draft_tokens)


def test_what_followed_the_last_occurrence_is_the_draft() -> None:
    assert fed([1, 2, 3, 4, 5, 1, 2, 3]).propose(8) == [4, 5]
    assert fed([1, 2, 3, 4, 1, 2, 3, 9, 9, 1, 2, 3]).propose(8) == [9, 9]
    assert fed([1, 2, 3, 4, 5, 1, 2, 3]).propose(1) == [4]
    assert fed([1, 2, 3, 4, 5, 1, 2, 3]).propose(0) == []


def test_no_repetition_no_draft() -> None:
    assert fed([1, 2, 3, 4]).propose(8) == []
    assert fed([1, 2]).propose(8) == []


def test_success_lengthens_and_failure_pauses() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    draft = fed(tokens)
    assert draft.propose(8) == [4, 5]
    draft.report(2, 2)
    assert draft.propose(8) == [4, 5, 6, 7]
    tokens += [4]
    draft.report(4, 0)  # a pause of two tokens, of which one is here already
    assert draft.propose(8) == []
    tokens += [5]
    assert draft.propose(8) == [6, 7]


def cycle(history: list[int]) -> int:
    """A text that repeats itself every five tokens, with a surprise at every seventeenth."""
    return 400 + len(history) if len(history) % 17 == 0 else 10 + len(history) % 5


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5, "frequency_penalty": 0.3}])
def test_drafts_save_calls_and_change_nothing(sampling: dict[str, Any]) -> None:
    plain, drafting = Driver(script=cycle), Driver(script=cycle, config=EngineConfig(max_draft_tokens=8))
    for driver in (plain, drafting):
        driver.add(request("a", [7, 8, 9], max_tokens=60, **sampling))
        driver.run()
    assert drafting.tokens == plain.tokens
    calls = [session.count("prefill") + session.count("decode") for session in (plain.session, drafting.session)]
    assert calls[0] == 60
    assert calls[1] < 40
    stats = drafting.engine.stats()
    assert stats.accepted_tokens == 60 - calls[1]


def test_a_failing_check_of_a_draft_ends_the_sequence() -> None:
    driver = Driver(script=cycle, config=EngineConfig(max_draft_tokens=8))

    def fail_second_prefill(call: Call) -> None:
        if call.kind == "prefill" and driver.session.count("prefill") == 2:
            raise DeviceError("lost")

    driver.session.before_call = fail_second_prefill
    driver.add(request("a", [7, 8, 9], max_tokens=60))
    driver.run()
    assert driver.finishes["a", 0].error == "DeviceError: lost"
    assert driver.engine.stats().drafted_tokens == 0
    driver.add(request("b", [7, 8, 9], max_tokens=60))
    driver.run()
    assert len(driver.tokens["b", 0]) == 60


def test_a_draft_never_runs_past_the_last_allowed_token() -> None:
    driver = Driver(script=cycle, max_model_len=40, config=EngineConfig(max_draft_tokens=8))
    driver.add(request("a", [7, 8, 9], max_tokens=37))
    driver.run()
    assert len(driver.tokens["a", 0]) == 37


def test_nothing_is_drafted_beside_others_or_when_deterministic() -> None:
    for config, count in (
        (EngineConfig(max_draft_tokens=8), 2),
        (EngineConfig(max_draft_tokens=8, deterministic=True), 1),
    ):
        driver = Driver(script=cycle, config=config)
        driver.add(*(request(f"r{i}", [7, 8, 9], max_tokens=30) for i in range(count)))
        driver.run()
        assert driver.engine.stats().drafted_tokens == 0


def test_text_that_never_repeats_costs_few_calls() -> None:
    driver = Driver(config=EngineConfig(max_draft_tokens=8), max_model_len=600)
    prompt = [1, 2, 3, 1, 2, 4, 1, 2, 5]
    driver.add(request("a", prompt, max_tokens=100))
    driver.run()
    assert driver.tokens["a", 0] == adding_reply(prompt, 100)
    assert isinstance(driver.session, ScriptedSession)
    assert driver.session.count("prefill") + driver.session.count("decode") == 100
