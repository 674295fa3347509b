"""Where a decode call covers the slots from the first one on: who gets which slot, who moves when, what it costs.

Calls, copies and the sizes that a device would have to record are counted, in scenarios that can be counted by hand.
"""

from __future__ import annotations

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.decode_span import PATIENCE_STEPS, DecodeSpan
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.errors import DeviceError
from runtime.session.gpu.runner import decode_buckets
from runtime.session.session import SessionInfo
from tests.fakes import Call
from tests.runtime.engine_driver import Driver, adding_reply, request

SIXTY_FOUR = (1, 2, 4, 8, 16, 32, 64)
TEXTS = {f"t{number}": [100 * number + place for place in range(20)] for number in range(1, 5)}


def driver_of(num_slots: int = 8, *, cache: bool = True, copy_rows: int = 2**20) -> Driver:
    config = EngineConfig(copy_bytes_per_step=copy_rows, prefix_cache=cache)
    return Driver(num_slots=num_slots, config=config, decode_buckets=decode_buckets(num_slots))


def driver_of_four_texts() -> Driver:
    """Each of four slots retains one of TEXTS, in order; the first was used last, by somebody who went on from it."""
    driver = driver_of(4)
    for name, prompt in TEXTS.items():
        driver.add(request(name, prompt, max_tokens=2))
    driver.run()
    driver.add(request("u1", [*TEXTS["t1"], 7, 8], max_tokens=2))
    check(driver, {"u1": [*TEXTS["t1"], 7, 8]})
    return driver


def sizes(driver: Driver) -> list[int]:
    """Of each decode call, what a session would cover."""
    span = DecodeSpan.of(driver.session.info)
    return [span.bucket(call.slots[-1] + 1) for call in driver.session.calls if call.kind == "decode"]


def copies(driver: Driver) -> list[tuple[int, ...]]:
    return [call.slots for call in driver.session.calls if call.kind == "copy"]


def check(driver: Driver, prompts: dict[str, list[int]]) -> None:
    driver.run()
    for name, prompt in prompts.items():
        assert driver.tokens[name, 0] == adding_reply(prompt, driver.finishes[name, 0].num_generated)


def test_buckets_are_powers_of_two_and_the_number_of_slots() -> None:
    assert decode_buckets(64) == SIXTY_FOUR
    assert (decode_buckets(1), decode_buckets(5), decode_buckets(8)) == ((1,), (1, 2, 4, 5), (1, 2, 4, 8))


@pytest.mark.parametrize(
    ("decoding", "free", "expected"),
    [
        ({0}, {1, 2, 3}, None),  # as small as it can be
        ({3}, {0, 1, 2}, 1),
        ({0, 5}, {1, 2, 3, 4, 6, 7}, 2),
        ({0, 1, 5}, {2, 3, 4, 6, 7}, 4),
        ({0, 5}, {6, 7}, None),  # prompts are read in the slots between
        ({0, 5}, {3, 6, 7}, 4),
        ({4, 5, 6}, {0, 1, 2, 3}, 4),
        (set(), {0, 1}, None),
    ],
)
def test_the_smallest_call_that_moves_would_allow(decoding: set[int], free: set[int], expected: int | None) -> None:
    assert DecodeSpan(decode_buckets(8), any_slots=False).smaller(decoding, free) == expected


def test_sixty_four_sequences_that_come_and_go_take_seven_sizes_and_no_move() -> None:
    """Every one decodes its 15 tokens within the patience, so nothing moves whatever ends first."""
    driver = driver_of(64, cache=False)
    for number in range(64):
        driver.add(request(f"r{number}", [number, 1], max_tokens=2 + number * 7 % 15))
    driver.run()
    assert copies(driver) == []
    assert set(sizes(driver)) <= set(SIXTY_FOUR)


def test_empty_slots_are_given_away_from_the_bottom() -> None:
    driver = driver_of(cache=False)
    for name, length in (("a", 30), ("b", 3), ("c", 30)):
        driver.add(request(name, [1, 2], max_tokens=length))
    while ("b", 0) not in driver.finishes:
        driver.step()
    driver.add(request("d", [3, 4], max_tokens=5))
    driver.step()
    driver.step()
    assert driver.session.calls[-1].slots == (0, 1, 2)
    driver.run()
    assert (set(sizes(driver)), copies(driver)) == ({2, 4}, [(2, 1)])  # once d has ended c moves into its slot


def test_a_call_that_could_be_smaller_is_after_a_while_and_by_one_move() -> None:
    driver = driver_of(cache=False)
    for name, length in (("a", 3), ("b", 3), ("c", 60)):
        driver.add(request(name, [1, 2], max_tokens=length))
    driver.run()
    found = sizes(driver)
    # Two steps of three rows; then c is alone in slot 2 for the steps of patience, counted from the last of those two.
    assert found == [4] * (2 + PATIENCE_STEPS - 1) + [1] * (59 - 2 - PATIENCE_STEPS + 1)
    assert copies(driver) == [(2, 0)]
    check(driver, {"c": [1, 2]})


def test_a_newcomer_gets_the_lowest_empty_slot_and_not_the_nearest() -> None:
    driver = driver_of(cache=False)
    for name, length in (("a", 3), ("b", 3), ("c", 60)):
        driver.add(request(name, [1, 2], max_tokens=length))
    for _ in range(5):
        driver.step()
    driver.add(request("d", [3, 4], max_tokens=5))
    driver.step()
    driver.step()
    assert [call.slots for call in driver.session.calls[-3:]] == [(2,), (0,), (0, 2)]


def test_a_call_that_grows_again_in_time_moves_nothing() -> None:
    driver = driver_of(4, cache=False)
    for name, length in (("a", 3), ("b", 3), ("c", 60)):
        driver.add(request(name, [1, 2], max_tokens=length))
    for number in range(4):
        for _ in range(PATIENCE_STEPS - 4):
            driver.step()
        for name in ("x", "y"):
            driver.add(request(f"{name}{number}", [5, 6], max_tokens=4))
        for _ in range(4):
            driver.step()
    assert copies(driver) == []


def test_what_a_low_slot_retains_makes_room_and_is_found_where_it_went() -> None:
    """All slots retain something: the newcomer gets slot 0 all the same, whose rows go where the oldest were."""
    driver = driver_of_four_texts()
    calls = len(driver.session.calls)
    driver.add(request("new", [9, 9, 9], max_tokens=3))
    driver.run()
    made = driver.session.calls[calls:]
    assert [call.slots for call in made] == [(0, 1), (0,), (0,), (0,)]  # t2 was the oldest
    assert made[0].kind == "copy"
    more = {"v1": [*TEXTS["t1"], 7, 8, 9], "v3": [*TEXTS["t3"], 7, 8], "v2": [*TEXTS["t2"], 7]}
    for name, prompt in more.items():
        driver.add(request(name, prompt, max_tokens=2))
    check(driver, more)
    cached = {name: driver.finishes[name, 0].num_cached_tokens for name in more}
    assert cached == {"v1": 21, "v3": 20, "v2": 0}


def test_one_conversation_after_another_decodes_in_the_first_slot_and_all_are_retained() -> None:
    driver = driver_of(8)
    for name, prompt in TEXTS.items():
        driver.add(request(name, prompt, max_tokens=4))
        driver.run()
    assert (set(sizes(driver)), copies(driver)) == ({1}, [(0, 1), (0, 2), (0, 3)])
    again = {f"again{name}": [*prompt, 7, 8] for name, prompt in TEXTS.items()}
    for name, prompt in again.items():
        driver.add(request(name, prompt, max_tokens=2))
        check(driver, {name: prompt})
        assert driver.finishes[name, 0].num_cached_tokens == 20


def test_rows_that_a_step_may_not_copy_whole_stay_where_they_are() -> None:
    driver = driver_of(4, copy_rows=2)
    for name, prompt in TEXTS.items():
        driver.add(request(name, prompt, max_tokens=2))
        driver.run()
    driver.add(request("u4", [*TEXTS["t4"], 7, 8], max_tokens=2))
    driver.run()
    calls = len(driver.session.calls)
    driver.add(request("new", [9, 9, 9], max_tokens=3))
    check(driver, {"new": [9, 9, 9]})
    assert driver.session.calls[calls].slots == (0,)


def test_room_that_could_not_be_made_costs_what_was_retained_and_no_answer() -> None:
    driver = driver_of_four_texts()

    def refuse(_call: Call) -> None:
        raise DeviceError("a copy failed")

    driver.session.before_copy = refuse
    driver.add(request("new", [9, 9, 9], max_tokens=30))
    driver.step()
    assert driver.session.calls[-1].slots == (0,)
    driver.session.before_copy = lambda _call: None
    beside = {f"w{number}": [number, 9, 8] for number in range(4)}
    for name, prompt in beside.items():
        driver.add(request(name, prompt, max_tokens=4))
    check(driver, {"new": [9, 9, 9]} | beside)
    more = {"v1": [*TEXTS["t1"], 7, 8, 9], "v3": [*TEXTS["t3"], 7, 8]}
    for name, prompt in more.items():
        driver.add(request(name, prompt, max_tokens=2))
    check(driver, more)
    assert driver.finishes["v1", 0].num_cached_tokens == 0


def test_a_newcomers_own_prefix_is_not_moved_away() -> None:
    """The text begins in slot 0 like the newcomer's, who copies from there; so nothing makes room for it."""
    driver = driver_of_four_texts()
    calls = len(driver.session.calls)
    driver.add(request("branch", [*TEXTS["t1"][:18], 9, 9], max_tokens=2))
    check(driver, {"branch": [*TEXTS["t1"][:18], 9, 9]})
    assert [call.slots for call in driver.session.calls[calls:] if call.kind == "copy"] == [(0, 1)]
    assert driver.finishes["branch", 0].num_cached_tokens == 18


@pytest.mark.parametrize(
    ("config", "expected"), [(EngineConfig(), (8, 20)), (EngineConfig(prefill_chunk_tokens=5), (5, 20))]
)
def test_chunks_are_the_sessions_unless_the_operator_says_so(config: EngineConfig, expected: tuple[int, int]) -> None:
    """Two prompts make up one budget, and a step in which somebody decodes has another."""
    sizes = {"prefill_tokens": 8, "idle_prefill_tokens": 20, "decode_buckets": (1, 2, 4)}
    info = SessionInfo("any", 4, 64, 500, 1, batch_invariant=True, **sizes)  # type: ignore[arg-type]
    scheduler = Scheduler(info, config)
    busy, idle = expected
    for name, length in (("a", 12), ("b", 30)):
        scheduler.add(Sequence(request(name, list(range(length)), max_tokens=9), 0))
    plan = scheduler.plan()
    assert [(chunk.start, chunk.stop) for chunk in plan.prefills] == [(0, 12), (0, idle - 12)]
    for chunk in plan.prefills:
        scheduler.commit_prefill(chunk)
    scheduler.running[0].token_ids.append(1)
    assert [(chunk.start, chunk.stop) for chunk in scheduler.plan().prefills] == [(idle - 12, idle - 12 + busy)]


def test_what_a_step_may_copy_is_the_sessions() -> None:
    info = SessionInfo("any", 4, 64, 500, 10, batch_invariant=True, copy_bytes=70)
    for config, rows in ((EngineConfig(), 7), (EngineConfig(copy_bytes_per_step=30), 3)):
        assert Scheduler(info, config)._copy_rows_per_step == rows


def test_who_counted_on_rows_that_were_to_make_room_computes_them() -> None:
    """A newcomer gets a slot whose rows were to go elsewhere, from where another was to copy them in the same step."""
    driver = driver_of_four_texts()
    refused: list[tuple[int, ...]] = []

    def refuse_first(call: Call) -> None:
        if not refused:
            refused.append(call.slots)
            raise DeviceError("a copy failed")

    driver.session.before_copy = refuse_first
    prompts = {"new": [9, 9, 9], "branch": [*TEXTS["t1"][:18], 9, 9]}
    for name, prompt in prompts.items():
        driver.add(request(name, prompt, max_tokens=4))
    check(driver, prompts)
    assert refused == [(0, 1)]
    assert driver.finishes["branch", 0].num_cached_tokens == 0
