"""The engine over a scripted session: exact tokens under batching, chunking, aborts, faults and prefix reuse."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.errors import DeviceError
from runtime.events import FinishEvent, FinishReason, TokenEvent
from tests.fakes import Call, counting
from tests.runtime.engine_driver import Driver, adding_reply, request

PROMPT = list(range(1, 41))


def test_a_request_alone_gets_its_tokens_and_one_end() -> None:
    driver = Driver()
    driver.add(request("a", [1, 2, 3], max_tokens=4))
    driver.run()
    assert driver.tokens == {("a", 0): [6, 12, 24, 48]}
    assert driver.finishes["a", 0].reason is FinishReason.LENGTH
    assert driver.finishes["a", 0].num_generated == 4


def test_requests_share_decode_steps_and_keep_their_own_tokens() -> None:
    driver = Driver()
    prompts = {name: [position + 1, 7, 9] for position, name in enumerate("abcdef")}
    driver.add(*(request(name, prompt, max_tokens=5 + len(name)) for name, prompt in prompts.items()))
    driver.run()
    assert driver.max_batch == 4  # every slot decoded at once
    for name, prompt in prompts.items():
        assert driver.tokens[name, 0] == adding_reply(prompt, 6)


def test_a_new_request_joins_while_others_decode() -> None:
    driver = Driver()
    driver.add(request("a", [1, 2, 3], max_tokens=20))
    for _ in range(3):
        driver.step()
    driver.add(request("b", [4, 5, 6], max_tokens=3))
    driver.run()
    assert driver.max_batch == 2
    assert driver.tokens["a", 0] == adding_reply([1, 2, 3], 20)
    assert driver.tokens["b", 0] == adding_reply([4, 5, 6], 3)


@pytest.mark.parametrize("chunk", [16, 17, 39, 64])
def test_a_prompt_is_computed_in_chunks_within_the_budget(chunk: int) -> None:
    driver = Driver(config=EngineConfig(prefill_chunk_tokens=chunk, idle_prefill_chunk_tokens=chunk))
    driver.add(request("a", PROMPT, max_tokens=3))
    driver.run()
    sizes = [len(call.tokens) for call in driver.session.calls if call.kind == "prefill"]
    assert sum(sizes) == 40
    assert max(sizes) <= chunk
    assert min(sizes) >= 2
    assert driver.tokens["a", 0] == adding_reply(PROMPT, 3)


def test_a_long_prompt_stalls_a_running_stream_by_one_chunk_at_most() -> None:
    driver = Driver(config=EngineConfig(prefill_chunk_tokens=16))
    driver.add(request("a", [1, 2], max_tokens=30))
    driver.step()
    driver.add(request("b", list(range(100)), max_tokens=2))
    for _ in range(7):
        before = len(driver.tokens["a", 0])
        driver.step()
        assert len(driver.tokens["a", 0]) == before + 1
    assert ("b", 0) in driver.tokens


def test_end_tokens_stop_tokens_and_length() -> None:
    driver = Driver(script=counting)
    driver.add(
        request("eos", [5], eos=8),
        request("ignored", [5], eos=8, max_tokens=6, ignore_eos=True),
        request("stop", [5], eos=8, stop_token_ids=frozenset({7})),
        request("both", [5], eos=8, stop_token_ids=frozenset({8})),
    )
    driver.run()
    ends = {
        name: (driver.finishes[name, 0].reason, driver.finishes[name, 0].stop_token_id) for name, _ in driver.tokens
    }
    assert driver.tokens["eos", 0] == [6, 7, 8]
    assert driver.tokens["ignored", 0] == [6, 7, 8, 9, 10, 11]
    assert ends == {
        "eos": (FinishReason.STOP, None),
        "ignored": (FinishReason.LENGTH, None),
        "stop": (FinishReason.STOP, 7),
        "both": (FinishReason.STOP, 8),
    }


def test_end_at_the_last_allowed_token_is_a_stop() -> None:
    driver = Driver(script=counting)
    driver.add(request("a", [5], max_tokens=3, eos=8))
    driver.run()
    assert driver.finishes["a", 0].reason is FinishReason.STOP


def test_abort_frees_the_slot_within_one_step_and_disturbs_nobody() -> None:
    driver = Driver(num_slots=2)
    driver.add(request("a", [1, 2], max_tokens=50), request("b", [3, 4], max_tokens=50), request("c", [5, 6]))
    for _ in range(4):
        driver.step()
    assert ("c", 0) not in driver.tokens
    driver.abort("a")
    driver.abort("unknown")
    driver.step()
    assert driver.tokens["c", 0] == adding_reply([5, 6], 1)
    driver.run()
    assert driver.finishes["a", 0].reason is FinishReason.ABORT
    assert driver.tokens["b", 0] == adding_reply([3, 4], 50)


def test_abort_while_waiting_and_while_prefilling() -> None:
    driver = Driver(num_slots=1, config=EngineConfig(idle_prefill_chunk_tokens=16))
    driver.add(request("a", PROMPT), request("b", [3, 4]), request("c", [5, 6], max_tokens=2))
    driver.step()
    driver.abort("b")
    driver.abort("a")
    driver.run()
    assert driver.tokens == {("c", 0): adding_reply([5, 6], 2)}
    assert {key[0] for key in driver.finishes} == {"a", "b", "c"}


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


def test_a_failing_decode_ends_its_sequences_and_the_engine_recovers() -> None:
    driver = Driver()

    def fail_third_decode(call: Call) -> None:
        if call.kind == "decode" and driver.session.count("decode") == 3:
            raise MemoryError("no memory for step 3")

    driver.session.before_call = fail_third_decode
    driver.add(request("a", [1, 2], max_tokens=9), request("b", [3, 4], max_tokens=9))
    driver.run()
    assert {event.error for event in driver.finishes.values()} == {"MemoryError: no memory for step 3"}
    driver.add(request("c", [1, 2], max_tokens=9))
    driver.run()
    assert driver.tokens["c", 0] == adding_reply([1, 2], 9)


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


def test_a_failing_prefill_ends_its_own_sequence_only() -> None:
    driver = Driver()

    def fail_long(call: Call) -> None:
        if call.kind == "prefill" and len(call.tokens) == 40:
            raise DeviceError("cannot")

    driver.session.before_call = fail_long
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


def test_a_request_expires_in_the_queue() -> None:
    now = [0]

    def clock() -> int:
        return now[0]

    driver = Driver(num_slots=1, config=EngineConfig(max_queue_time_s=2.0), clock=clock)
    driver.add(request("a", [1, 2], max_tokens=100), request("b", [3, 4]))
    for milliseconds in (0, 700, 1400, 2000):
        now[0] = milliseconds * 1_000_000
        driver.step()
    assert ("b", 0) not in driver.finishes
    now[0] += 1
    driver.step()
    assert driver.finishes["b", 0].reason is FinishReason.EXPIRED
    assert ("a", 0) not in driver.finishes


def test_who_came_first_gets_the_next_slot() -> None:
    driver = Driver(num_slots=1)
    driver.add(request("a", [1, 2]), request("c", [3, 4], n=2), request("b", [5, 6]))
    driver.run()
    order = sorted(driver.finishes, key=lambda key: driver.finishes[key].timing.admitted_ns)
    assert order == [("a", 0), ("c", 0), ("c", 1), ("b", 0)]


def test_a_steps_times_add_up_and_its_tokens_say_when_they_were_admitted() -> None:
    readings: list[int] = []

    def clock() -> int:
        readings.append(len(readings))
        return readings[-1]

    driver = Driver(clock=clock)
    driver.add(request("a", [1, 2, 3], max_tokens=2))
    for _ in range(2):  # the prompt, then a token
        first = len(readings)
        result = driver.engine.step()
        times = result.times
        parts = (times.plan_ns, times.copy_ns, times.bind_ns, times.run_ns, times.sample_ns, times.commit_ns)
        assert sum(parts) == readings[-1] - first
        assert min(times.plan_ns, times.sample_ns, times.commit_ns) > 0
        token = next(event for event in result.events if isinstance(event, TokenEvent))
        assert token.admitted_ns == 3  # the engine, the request, the step began, and then it was planned
    finish = result.events[-1]
    assert isinstance(finish, FinishEvent)
    assert finish.timing.admitted_ns == 3


def test_warm_up_leaves_no_trace() -> None:
    driver = Driver(script=lambda _: 5, config=EngineConfig(max_draft_tokens=4, warm_up_ids=(5,) * 20))

    def take_time(_call: Call) -> None:
        driver.session.run_ns += 7

    driver.session.before_call = take_time
    fresh = driver.engine.stats()
    driver.engine.warm_up()
    assert driver.session.count("prefill") == 2  # the prompt, and a draft
    assert not driver.engine.has_work
    assert driver.engine.stats() == fresh
    driver.add(request("a", [1, 2, 3], max_tokens=1))
    driver.run()
    stats = driver.engine.stats()
    assert (stats.num_steps, stats.run_ns) == (1, 7)


def test_a_failing_warm_up_says_why() -> None:
    driver = Driver()

    def fail(call: Call) -> None:
        if call.kind == "decode":
            raise DeviceError("no kernel")

    driver.session.before_call = fail
    with pytest.raises(DeviceError, match=r"^generating a few tokens failed: DeviceError: no kernel$"):
        driver.engine.warm_up()


def test_tokens_per_step_are_counted() -> None:
    driver = Driver()
    driver.add(request("a", PROMPT, max_tokens=5))
    driver.run()
    counts, total = driver.engine.stats().step_tokens
    assert total == 40 + 5  # the prompt, and every generated token: the first comes with the prompt's step
    assert counts[0] == 4  # steps of one token
    assert counts[4] == 1  # 32 < 41 <= 64
    assert sum(counts) == 5


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
