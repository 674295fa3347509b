"""Rows that were computed once: which slot a prompt goes on from, what is copied, and what is never used again."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.errors import DeviceError
from tests.fakes import Call
from tests.runtime.engine_driver import Driver, adding_reply, request

PROMPT = list(range(1, 41))


@pytest.mark.parametrize("copy_bytes", [2, 17, 58, 59, 2**20])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_a_cached_prompt_is_copied_in_pieces_while_others_decode(copy_bytes: int, prefix_cache: bool) -> None:
    prompt = list(range(1, 61))
    driver = Driver(num_slots=6, config=EngineConfig(copy_bytes_per_step=copy_bytes, prefix_cache=prefix_cache))
    driver.add(request("stream", [1, 2], max_tokens=250))
    driver.step()
    driver.add(request("many", prompt, max_tokens=250 - 60, n=4))
    copied, prefilled = [], 0
    while len(driver.tokens.get(("many", 3), ())) < 2:
        calls, tokens = len(driver.session.calls), len(driver.tokens["stream", 0])
        driver.step()
        done = driver.session.calls[calls:]
        copied.append(sum(call.start for call in done if call.kind == "copy"))
        prefilled += sum(len(call.tokens) for call in done if call.kind == "prefill")
        assert len(driver.tokens["stream", 0]) == tokens + 1  # no step without its token
    assert max(copied) == min(copy_bytes, 58)  # the choices share one prompt one after the other
    assert sum(copied) == 3 * 58
    assert prefilled == 60 + 3 * 2
    driver.run()
    assert [driver.tokens["many", index] for index in range(4)] == [adding_reply(prompt, 190)] * 4
    assert driver.tokens["stream", 0] == adding_reply([1, 2], 250)
    assert driver.finishes["many", 3].num_cached_tokens == 58


def test_a_prefix_whose_source_is_gone_is_copied_from_another_or_computed() -> None:
    prompt = list(range(1, 61))
    driver = Driver(num_slots=3, config=EngineConfig(copy_bytes_per_step=20))
    driver.add(request("source", prompt, max_tokens=2))
    driver.run()
    driver.add(request("stream", [1, 2], max_tokens=60))
    driver.step()
    driver.add(request("mine", prompt, max_tokens=4))
    driver.step()
    driver.add(request("taker", [9] * 30, max_tokens=4))  # gets the only slot left: the source
    driver.run()
    assert driver.tokens["mine", 0] == adding_reply(prompt, 4)
    assert driver.finishes["mine", 0].num_cached_tokens == 40
    assert driver.engine.stats().prefix_hit_tokens == 40


def test_choices_of_one_request_share_one_prefill() -> None:
    driver = Driver(config=EngineConfig(prefix_cache=False))
    driver.add(request("a", PROMPT, max_tokens=5, n=3))
    driver.run()
    prefilled = sum(len(call.tokens) for call in driver.session.calls if call.kind == "prefill")
    assert prefilled == 40 + 2 * 2  # each further choice recomputes the last two tokens for its own logits
    assert [driver.tokens["a", index] for index in range(3)] == [adding_reply(PROMPT, 5)] * 3


def test_a_conversation_continues_in_its_slot() -> None:
    driver = Driver()
    driver.add(request("a", PROMPT, max_tokens=4))
    driver.run()
    history = PROMPT + driver.tokens["a", 0]
    follow_up = [*history[:-1], 70, 71, 72]
    driver.add(request("b", follow_up, max_tokens=4))
    driver.run()
    assert driver.finishes["b", 0].num_cached_tokens == len(history) - 1
    assert driver.session.count("copy") == 0
    assert driver.tokens["b", 0] == adding_reply(follow_up, 4)


def test_a_branch_copies_the_prefix_and_leaves_it_to_others() -> None:
    driver = Driver()
    driver.add(request("a", [*PROMPT, 60, 61, 62, 63, 64], max_tokens=4))
    driver.run()
    for name, tail in (("b", [80, 81]), ("c", [90, 91])):
        driver.add(request(name, PROMPT + tail, max_tokens=4))
        driver.run()
        assert driver.finishes[name, 0].num_cached_tokens == 40
        assert driver.tokens[name, 0] == adding_reply(PROMPT + tail, 4)
    assert driver.session.count("copy") == 2


@pytest.mark.parametrize(("shared", "lost", "copies"), [(192, 6, 0), (192, 7, 1), (191, 6, 1), (40, 2, 0), (40, 3, 1)])
def test_a_branch_that_leaves_little_behind_takes_the_slot(shared: int, lost: int, copies: int) -> None:
    """A row per 32 that are shared: an answer whose text is written in other tokens, or a question asked anew."""
    driver = Driver()
    beginning = [token % 90 for token in range(shared)]
    driver.add(request("a", [*beginning, 91], max_tokens=lost))  # the last token has no row
    driver.run()
    driver.add(request("b", [*beginning, 92, 93], max_tokens=4))
    driver.run()
    assert driver.finishes["b", 0].num_cached_tokens == shared
    assert driver.session.count("copy") == copies
    assert driver.tokens["b", 0] == adding_reply([*beginning, 92, 93], 4)
    driver.add(request("again", [*beginning, 91, 94, 95], max_tokens=1))
    driver.run()
    assert driver.finishes["again", 0].num_cached_tokens == shared + copies


def test_a_long_beginning_is_not_enough_to_lose_a_conversation() -> None:
    driver = Driver(max_model_len=2048)
    beginning = [token % 90 for token in range(32 * 33)]
    for name, lost in (("a", 32), ("b", 1), ("c", 33), ("d", 1)):
        driver.add(request(name, [*beginning, 91 + ord(name), 5], max_tokens=lost - 1))
        driver.run()
    assert driver.session.count("copy") == 1  # "d", since "c" holds 33 rows beyond what is shared


def test_a_source_that_was_just_copied_is_the_last_to_be_given_away() -> None:
    driver = Driver(num_slots=3)
    conversation = [*PROMPT, 60, 61, 62, 63, 64]
    prompts = {"a": conversation, "b": list(range(200, 240)), "branch": [*PROMPT, 80, 81], "c": list(range(300, 340))}
    for name, prompt in prompts.items():
        driver.add(request(name, prompt, max_tokens=4))
        driver.run()
    driver.add(request("again", [*conversation, 7, 8], max_tokens=4))
    driver.run()
    assert driver.finishes["branch", 0].num_cached_tokens == 40
    assert driver.finishes["again", 0].num_cached_tokens == 45  # "c" took the slot of "b", which nobody used since


def test_prefix_tokens_asked_for_and_found_are_counted() -> None:
    driver = Driver()
    for name, prompt in (("a", PROMPT), ("b", PROMPT), ("c", [*PROMPT[:20], 90, 91])):
        driver.add(request(name, prompt, max_tokens=3))
        driver.run()
    stats = driver.engine.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (40 + 40 + 22, 0 + 38 + 20)


def test_the_prefix_cache_can_be_switched_off_and_gives_the_same_tokens() -> None:
    answers = []
    for prefix_cache in (True, False):
        driver = Driver(config=EngineConfig(prefix_cache=prefix_cache))
        for name in ("a", "b"):
            driver.add(request(name, PROMPT, max_tokens=4))
            driver.run()
        answers.append(driver.tokens)
        assert driver.finishes["b", 0].num_cached_tokens == (38 if prefix_cache else 0)
    assert answers[0] == answers[1]


def test_deterministic_reuses_prefilled_rows_only() -> None:
    driver = Driver(config=EngineConfig(deterministic=True))
    driver.add(request("a", PROMPT, max_tokens=4))
    driver.run()
    driver.add(request("b", [*PROMPT, *driver.tokens["a", 0], 7, 8], max_tokens=4))
    driver.run()
    assert driver.finishes["b", 0].num_cached_tokens == 40


def test_rows_of_a_failed_call_or_row_are_never_reused() -> None:
    def nan_at_the_end(history: list[int]) -> object:
        return np.full(512, np.nan, np.float32) if len(history) == 43 else sum(history) % 500

    driver = Driver(script=nan_at_the_end)  # type: ignore[arg-type]

    def fail_second_decode(call: Call) -> None:
        if call.kind == "decode" and driver.session.count("decode") == 2:
            raise DeviceError("lost")

    driver.session.before_call = fail_second_decode
    for name, error in (("lost", "DeviceError: lost"), ("nan", "the model produced no usable number")):
        driver.add(request(name, PROMPT, max_tokens=9))
        driver.run()
        assert driver.finishes[name, 0].error == error
        assert driver.finishes[name, 0].num_cached_tokens == 0
    driver.add(request("last", PROMPT, max_tokens=2))
    driver.run()
    assert driver.finishes["last", 0].num_cached_tokens == 0
    assert driver.tokens["last", 0] == adding_reply(PROMPT, 2)


def test_tokens_per_step_count_what_the_prefix_cache_had_as_well() -> None:
    driver = Driver()
    for name in "ab":
        driver.add(request(name, PROMPT, max_tokens=2))
        driver.run()
    assert driver.finishes["b", 0].num_cached_tokens > 0
    counts, total = driver.engine.stats().step_tokens
    assert total == 2 * (40 + 2)
    assert (counts[0], counts[4], sum(counts)) == (2, 2, 4)


def test_warming_up_with_a_prompt_leaves_its_beginning_in_the_cache() -> None:
    driver = Driver(config=EngineConfig(warm_up_ids=tuple(PROMPT)))
    driver.engine.warm_up()
    assert driver.engine.stats().step_tokens == ((0,) * 14, 0)
    driver.add(request("a", [*PROMPT[:30], 70, 71, 72], max_tokens=2))
    driver.run()
    assert driver.finishes["a", 0].num_cached_tokens == 30
