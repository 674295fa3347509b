"""A budget per minute, to the nanosecond, and how OpenAI writes the time until it is full."""

from __future__ import annotations

import random
from fractions import Fraction

from api.clients.budget import Budget
from api.clients.client import ClientLimits, Clients
from api.clients.visit import duration

S = 10**9


def test_what_was_spent_comes_back_evenly_and_no_further_than_a_minutes_worth() -> None:
    budget = Budget(60, 0)
    assert (budget.remaining(0), budget.wait_ns(60, 0), budget.full_ns(0)) == (60, 0, 0)
    budget.spend(60, 0)
    assert (budget.remaining(0), budget.wait_ns(1, 0), budget.wait_ns(60, 0)) == (0, S, 60 * S)
    assert [budget.remaining(at) for at in (S - 1, S, 2 * S - 1, 2 * S)] == [0, 1, 1, 2]
    assert budget.remaining(10 * S) == 10
    assert budget.remaining(9 * S) == 10  # a clock that went back brings nothing and takes nothing
    budget.give_back(55, 10 * S)
    assert budget.remaining(10 * S) == 60
    assert budget.full_ns(10 * S) == 0


def test_no_part_of_a_unit_is_lost_or_won_however_often_it_is_asked() -> None:
    draw = random.Random(7)
    for per_minute in (1, 7, 100, 10**12):
        budget, at, level = Budget(per_minute, 0), 0, Fraction(per_minute)
        for _ in range(200):
            step = draw.randrange(0, 10**10)
            at += step
            level = min(Fraction(per_minute), level + Fraction(per_minute * step, 60 * S))
            wanted = draw.randrange(1, per_minute + 1)
            wait = budget.wait_ns(wanted, at)
            assert budget.remaining(at) == int(level)
            assert (wait == 0) == (level >= wanted)
            if wait:
                missing = wanted - level
                assert wait == -(-missing * 60 * S // per_minute)
            else:
                budget.spend(wanted, at)
                level -= wanted


def test_another_rate_keeps_what_was_spent_as_far_as_it_goes() -> None:
    budget = Budget(100, 0)
    budget.spend(30, 0)
    budget.set_rate(200, 0)
    assert budget.remaining(0) == 170
    budget.set_rate(20, 0)
    assert (budget.remaining(0), budget.wait_ns(1, 0)) == (0, 3 * S)  # never a debt of more than a minute


def test_a_limit_that_goes_and_comes_back_begins_anew_while_counts_stay() -> None:
    clients = Clients(lambda: 0)
    clients.limit({"a": ClientLimits(requests_per_minute=5)})
    client = clients["a"]
    client.num_requests = 3
    clients.limit({"a": ClientLimits(tokens_per_minute=9), "b": ClientLimits()})
    assert clients["a"] is client
    assert (client.requests, client.tokens and client.tokens.per_minute, client.num_requests) == (None, 9, 3)
    assert [one.name for one in clients] == ["a", "b"]


def test_times_are_written_as_openai_does() -> None:
    for span_ns, text in {
        0: "0s", 1: "1ms", 120_000_000: "120ms", 999_000_001: "1s", S: "1s", 1_500_000_000: "1.5s", 60 * S: "1m0s",
        360 * S: "6m0s", 59_999_999_999: "1m0s", 61_250_000_000: "1m1.25s",
    }.items():  # fmt: skip
        assert duration(span_ns) == text
