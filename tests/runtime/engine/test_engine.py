"""The engine over a scripted session: exact tokens under batching, chunking, aborts and ends, and what it counts."""

from __future__ import annotations

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
