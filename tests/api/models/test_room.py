"""Who makes room for whom, and what each model's cache gets, in numbers that a reader adds up."""

from __future__ import annotations

import pytest

from api.errors import NoRoomError
from api.models.room import CacheWish, Holder, MemoryNeed, cache_budgets, leavers
from runtime.errors import KVBudgetError

BUDGETS = {"cpu": 10, "GPU-a": 5}


def need(size: int, device: str = "cpu") -> MemoryNeed:
    return MemoryNeed(device=device, fixed_bytes=1, cache_bytes=size - 1)


def holder(name: str, size: int, last_used: int, *, idle: bool = True, device: str = "cpu") -> Holder:
    return Holder(name=name, need=need(size, device), last_used=last_used, is_idle=idle)


@pytest.mark.parametrize(
    ("size", "holders", "expected"),
    [
        (10, [], ()),
        (4, [holder("a", 6, 1)], ()),  # to the last byte
        (5, [holder("a", 6, 1)], ("a",)),
        (4, [holder("a", 4, 2), holder("b", 4, 1)], ("b",)),  # used longest ago, in whatever order they stand
        (8, [holder("a", 4, 2), holder("b", 4, 1)], ("b", "a")),
        (5, [holder("a", 4, 1, idle=False), holder("b", 4, 9)], ("b",)),  # never one that serves
        (6, [holder("a", 2, 1), holder("b", 7, 2)], ("b",)),  # what the second frees is enough by itself
        (10, [holder("a", 5, 1, device="GPU-a")], ()),  # another device's memory is not this one's
    ],
)
def test_those_used_longest_ago_leave_and_no_more_than_it_takes(
    size: int, holders: list[Holder], expected: tuple[str, ...]
) -> None:
    assert leavers("new", need(size), holders, BUDGETS) == expected


def test_what_never_fits_and_what_does_not_fit_now_are_told_apart_with_the_arithmetic() -> None:
    with pytest.raises(
        KVBudgetError, match=r"new needs 11 bytes \(1 bytes weights \+ 10 bytes kv cache\), more than .*10"
    ):
        leavers("new", need(11), [], BUDGETS)
    with pytest.raises(KVBudgetError, match="6 bytes"):
        leavers("new", need(6, "GPU-a"), [], BUDGETS)
    busy = [holder("a", 6, 1, idle=False), holder("b", 3, 2)]
    with pytest.raises(NoRoomError, match=r"new needs 5 bytes .* budget of 10 bytes, .*: a 6 bytes$"):
        leavers("new", need(5), busy, BUDGETS)


def test_small_and_large_sizes_are_shown_as_people_read_them() -> None:
    assert MemoryNeed(fixed_bytes=3 * 2**29, cache_bytes=2**20 - 1).explain() == (
        "1.50 GiB (1.50 GiB weights + 1,048,575 bytes kv cache)"
    )


def wish(fixed: int, least: int, asked: int | None = None) -> CacheWish:
    return CacheWish(fixed_bytes=fixed, asked_bytes=asked, least_bytes=least)


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"a": wish(10, 5), "b": wish(20, 5)}, {"a": 35, "b": 35}),  # (100 - 30) / 2
        ({"a": wish(10, 7, 7), "b": wish(20, 5)}, {"a": 7, "b": 63}),  # what was asked for is granted as it is
        ({"a": wish(10, 200, 200), "b": wish(20, 5)}, {"a": 200, "b": 80}),  # and refused when it is to be loaded
        ({"a": wish(80, 5), "b": wish(70, 5)}, {"a": 20, "b": 30}),  # not both at once: each as if alone
        ({"a": wish(10, 35), "b": wish(20, 35)}, {"a": 35, "b": 35}),
        ({"a": wish(10, 36), "b": wish(20, 35)}, {"a": 90, "b": 80}),  # a slot of a's would not fit its part
        ({"a": wish(200, 5)}, {"a": 0}),
    ],
)
def test_caches_share_what_weights_and_wishes_leave(wishes: dict[str, CacheWish], expected: dict[str, int]) -> None:
    assert cache_budgets(100, wishes) == expected
