"""A hole among the decoding slots is closed piece by piece, whatever happens on the way; the cache keeps its rows."""

from __future__ import annotations

import pytest

from runtime.engine.config import EngineConfig
from tests.runtime.engine_driver import Driver, adding_reply, request

LOW, MIDDLE, HIGH = list(range(1, 61)), list(range(101, 151)), list(range(201, 281))


def with_a_hole(num_slots: int = 4, copy_rows: int = 16, *, deterministic: bool = False) -> Driver:
    """``low`` decodes in slot 0, ``high`` in slot 2, and what ``middle`` retained lies between them."""
    config = EngineConfig(copy_bytes_per_step=copy_rows, deterministic=deterministic)
    driver = Driver(num_slots=num_slots, config=config)
    driver.add(request("low", LOW, max_tokens=100), request("middle", MIDDLE, max_tokens=3))
    driver.add(request("high", HIGH, max_tokens=100))
    while ("middle", 0) not in driver.finishes:
        driver.step()
    assert driver.session.count("copy") == 0
    return driver


def copies_of_steps(driver: Driver, num_steps: int) -> list[list[tuple[tuple[int, ...], int]]]:
    """The copies (slots, rows) of each further step; everything that decodes must get its token in each."""
    steps = []
    for _ in range(num_steps):
        calls = len(driver.session.calls)
        before = {key: len(tokens) for key, tokens in driver.tokens.items() if key not in driver.finishes}
        driver.step()
        assert {key: len(driver.tokens[key]) for key in before} == {key: count + 1 for key, count in before.items()}
        steps.append([(call.slots, call.start) for call in driver.session.calls[calls:] if call.kind == "copy"])
    return steps


def check_answers(driver: Driver, **prompts: list[int]) -> None:
    """Run to the end; each answer is the one that its prompt has alone."""
    driver.run()
    for name, prompt in prompts.items():
        assert driver.tokens[name, 0] == adding_reply(prompt, driver.finishes[name, 0].num_generated)


def test_no_step_copies_more_than_its_budget_and_no_stream_waits() -> None:
    driver = with_a_hole()
    steps = copies_of_steps(driver, 10)
    # 52 rows that the middle one left go to the empty slot, then the 62 of the shorter end and what it adds meanwhile.
    expected = [[((1, 3), 16)]] * 3 + [[((1, 3), 4), ((0, 1), 12)], *[[((0, 1), 16)]] * 3, [((0, 1), 9)], [], []]
    assert steps == expected
    assert driver.session.calls[-1].slots == (1, 2)
    check_answers(driver, low=LOW, high=HIGH)


def test_what_the_hole_retained_is_found_in_its_new_slot() -> None:
    driver = with_a_hole()
    copies_of_steps(driver, 10)
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8])
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


@pytest.mark.parametrize("low", [LOW, HIGH])
def test_a_hole_that_retains_nothing_is_closed_by_the_end_with_fewer_rows(low: list[int]) -> None:
    high = HIGH if low is LOW else LOW
    driver = Driver(num_slots=3, config=EngineConfig(prefix_cache=False))
    driver.add(request("low", low, max_tokens=9), request("middle", MIDDLE, max_tokens=2))
    driver.add(request("high", high, max_tokens=9))
    check_answers(driver, low=low, high=high)
    assert [call.slots for call in driver.session.calls if call.kind == "copy"] == [(0 if low is LOW else 2, 1)]


@pytest.mark.parametrize("after_steps", range(1, 9))
@pytest.mark.parametrize("name", ["low", "high"])
def test_an_end_of_the_range_may_leave_at_any_piece(name: str, after_steps: int) -> None:
    driver = with_a_hole()
    copies_of_steps(driver, after_steps)
    driver.abort(name)
    driver.add(request("next", [9, 8, 7], max_tokens=20), request("again", [*MIDDLE, 7, 8], max_tokens=20))
    check_answers(driver, low=LOW, high=HIGH, next=[9, 8, 7], again=[*MIDDLE, 7, 8])
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


@pytest.mark.parametrize("after_steps", range(1, 9))
@pytest.mark.parametrize("prompt", [[9, 8, 7], [*MIDDLE, 7, 8], [*MIDDLE[:20], 7, 8], HIGH])
def test_a_newcomer_may_take_either_slot_at_any_piece(prompt: list[int], after_steps: int) -> None:
    driver = with_a_hole()
    copies_of_steps(driver, after_steps)
    driver.add(request("new", prompt, max_tokens=3), request("other", [5, 5], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, new=prompt, other=[5, 5])


def test_a_sequence_that_ends_while_it_moves_leaves_its_rows_where_they_were() -> None:
    driver = with_a_hole()
    copies_of_steps(driver, 5)
    generated = list(driver.tokens["low", 0])
    driver.abort("low")
    driver.add(request("again", [*LOW, *generated, 7, 8], max_tokens=3))
    driver.run()
    assert driver.finishes["again", 0].num_cached_tokens == len(LOW) + len(generated) - 1
    assert driver.tokens["again", 0] == adding_reply([*LOW, *generated, 7, 8], 3)


def test_a_newcomer_in_place_of_what_moved_is_moved_from_its_beginning() -> None:
    """``--deterministic`` offers no decoded rows, so the newcomer's differ from those that were copied already."""
    driver = with_a_hole(copy_rows=19, deterministic=True)
    copied = copies_of_steps(driver, 6)
    assert sum(rows for step in copied for slots, rows in step if slots == (0, 1)) > len(LOW)
    driver.abort("low")
    driver.add(request("new", [*LOW, 7, 8, 9], max_tokens=30))
    driver.step()
    assert copies_of_steps(driver, 1) == [[((0, 1), 19)]]
    check_answers(driver, high=HIGH, new=[*LOW, 7, 8, 9])


def test_one_move_closes_all_holes_on_its_way() -> None:
    driver = Driver(num_slots=4, config=EngineConfig(copy_bytes_per_step=16, prefix_cache=False))
    for name, prompt, length in (("low", LOW, 90), ("first", [5, 6], 9), ("second", [7, 8], 10), ("high", HIGH, 90)):
        driver.add(request(name, prompt, max_tokens=length))
    while ("first", 0) not in driver.finishes:
        driver.step()
    steps = copies_of_steps(driver, 8)
    assert steps[:2] == [[((0, 1), 16)], [((0, 2), 16)]]  # the second hole came, and the first one is left as it is
    assert {slots for step in steps[2:] for slots, _ in step} == {(0, 2)}
    assert driver.session.calls[-1].slots == (2, 3)
    check_answers(driver, low=LOW, high=HIGH)


def test_a_newcomers_prefix_goes_first_and_the_move_begins_again_elsewhere() -> None:
    driver = with_a_hole(num_slots=5)
    assert copies_of_steps(driver, 1) == [[((1, 3), 16)]]
    driver.add(request("branch", [*HIGH[:70], 7, 8], max_tokens=60))
    steps = copies_of_steps(driver, 9)
    assert steps[:4] == [[((2, 3), 16)]] * 4
    assert steps[4] == [((2, 3), 6), ((1, 4), 10)]
    assert all(sum(rows for _, rows in step) <= 16 for step in steps)
    check_answers(driver, low=LOW, high=HIGH, branch=[*HIGH[:70], 7, 8])


OLD, OLDER = list(range(301, 341)), list(range(401, 441))


def with_every_slot_in_use() -> Driver:
    """As ``with_a_hole``, above two slots that retain what ``older`` and ``old`` left."""
    driver = Driver(num_slots=5, config=EngineConfig(copy_bytes_per_step=16))
    for name, prompt in (("older", OLDER), ("old", OLD)):
        driver.add(request(name, prompt, max_tokens=2))
        driver.run()
    for name, prompt, length in (("low", LOW, 90), ("middle", MIDDLE, 3), ("high", HIGH, 90)):
        driver.add(request(name, prompt, max_tokens=length))
    while ("middle", 0) not in driver.finishes:
        driver.step()
    return driver


def test_without_an_empty_slot_the_one_unused_for_longest_is_emptied() -> None:
    driver = with_every_slot_in_use()
    copies_of_steps(driver, 12)
    assert driver.session.calls[-1].slots == (3, 4)
    again = {"new_middle": [*MIDDLE, 7, 8], "new_old": [*OLD, 7, 8], "new_older": [*OLDER, 7, 8]}
    for name, prompt in again.items():
        driver.add(request(name, prompt, max_tokens=2))
    check_answers(driver, low=LOW, high=HIGH, **again)
    cached = {name: driver.finishes[name, 0].num_cached_tokens for name in again}
    assert cached == {"new_middle": 50, "new_old": 40, "new_older": 0}


def test_what_is_emptied_is_offered_no_more() -> None:
    driver = with_every_slot_in_use()
    copies_of_steps(driver, 1)
    driver.add(request("new", [*OLDER, 7, 8], max_tokens=2))
    check_answers(driver, low=LOW, high=HIGH, new=[*OLDER, 7, 8])
    assert driver.finishes["new", 0].num_cached_tokens == 0


def test_what_moved_counts_as_used_when_it_was() -> None:
    driver = with_every_slot_in_use()
    copies_of_steps(driver, 12)
    fillers = {"one": [11] * 20, "two": [12] * 20}  # the empty slot goes first, then the old one
    for name, prompt in fillers.items():
        driver.add(request(name, prompt, max_tokens=20))
    driver.step()
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=2))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8], **fillers)
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


def test_a_hole_that_is_the_last_slot_to_give_away_keeps_its_rows() -> None:
    driver = with_a_hole(num_slots=3)
    assert copies_of_steps(driver, 5) == [[]] * 5
    driver.add(request("again", [*MIDDLE, 7, 8], max_tokens=3))
    check_answers(driver, low=LOW, high=HIGH, again=[*MIDDLE, 7, 8])
    assert driver.finishes["again", 0].num_cached_tokens == len(MIDDLE)


def test_the_smallest_budget_still_catches_up_with_a_sequence_that_grows() -> None:
    driver = Driver(num_slots=8, config=EngineConfig(copy_bytes_per_step=1))
    for position in range(8):
        driver.add(request(f"r{position}", [position, 9, 9], max_tokens=40 if position in {0, 4, 7} else 5))
    copied = []
    while driver.engine.has_work:
        before = len(driver.session.calls)
        driver.step()
        copied.append(sum(call.start for call in driver.session.calls[before:] if call.kind == "copy"))
    assert max(copied) == 2
    assert driver.session.count("copy") > 3
    check_answers(driver, **{f"r{position}": [position, 9, 9] for position in range(8)})


def test_a_long_prefix_comes_in_pieces_also_while_nobody_decodes() -> None:
    driver = Driver(num_slots=3, config=EngineConfig(copy_bytes_per_step=16))
    text = [place % 90 for place in range(200)]
    driver.add(request("first", [*text, 1, 2, 3], max_tokens=8))  # too much beyond what is shared to be written over
    driver.run()
    driver.add(request("branch", [*text, 7, 8], max_tokens=3))
    driver.step()
    assert "branch" not in {name for name, _ in driver.tokens}
    driver.add(request("other", [5, 6, 7], max_tokens=2))
    check_answers(driver, branch=[*text, 7, 8], other=[5, 6, 7])
    assert next(call.start for call in driver.session.calls if call.kind == "copy") == 128
    assert driver.finishes["branch", 0].num_cached_tokens == 200
