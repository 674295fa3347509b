"""A schema's cost in blocks taken in turns, on sessions and a clock whose every nanosecond is written here."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bench.errors import BenchError
from bench.in_process import schema_cost
from bench.in_process.schema_cost import BLOCK_STEPS, measure_schema_cost, tokens_needed
from bench.in_process.schema_report import SchemaCost, schema_table
from bench.metrics.stats import Interval, median_interval
from tests.fakes import Call, ScriptedSession, counting
from tests.runtime.scripted_constraint import ScriptedConstraint, ScriptedMatcher

STEP_NS, COMMIT_NS, SECOND_SESSION_NS, CHANGE_NS = 1000, 15, 10, 77_777


@dataclass
class Bench:
    """A decode takes 1,000 ns, 10 more in the second session, 77,777 more after one of the other; a commit takes 15."""

    now: int = 0
    order: list[int] = field(default_factory=list)
    matchers: list[ScriptedMatcher] = field(default_factory=list)

    def session(self, index: int, num_slots: int = 2) -> ScriptedSession:
        def call(called: Call) -> None:
            if called.kind != "decode":
                return
            self.now += STEP_NS + index * SECOND_SESSION_NS
            if self.order and self.order[-1] != index:
                self.now += CHANGE_NS
                computing = [matcher for matcher in self.matchers if matcher.state == "computing"]
                assert not computing or self.is_first_of_bound(index)
            self.order.append(index)

        return ScriptedSession(counting, num_slots=num_slots, before_call=call)

    def is_first_of_bound(self, index: int) -> bool:
        """In the second half the bound engine is the first session's."""
        return index == (0 if len(self.matchers) > 2 else 1)

    def constraint(self, *, defers: bool = False) -> ScriptedConstraint:
        bench = self

        class Matcher(ScriptedMatcher):
            def commit(self, token_id: int) -> None:
                super().commit(token_id)
                bench.now += COMMIT_NS

        class Constraint(ScriptedConstraint):
            def matcher(self) -> ScriptedMatcher:
                bench.matchers.append(Matcher(self))
                return bench.matchers[-1]

        return Constraint(lambda _ids: set(range(511)), defers=lambda _: defers)


def test_pairs_of_blocks_show_what_a_schema_adds_and_nothing_else() -> None:
    bench = Bench()
    sessions = bench.session(0), bench.session(1)
    cost = measure_schema_cost(sessions, 2, "greedy", bench.constraint(), num_steps=16, clock=lambda: bench.now)
    # Steps of two rows, so two commits: 1,030 of 1,000 ns, and 10 ns of a session on either side of half of the pairs.
    assert sorted(set(cost.ratios)) == [1030 / 1010, 1040 / 1000]
    assert (len(cost.ratios), cost.ratios.count(1.04)) == (4, 2)
    assert cost.ratio.centre == pytest.approx(1.03, abs=2e-4)
    assert (cost.plain_us, cost.bound_us) == pytest.approx((1.005, 1.035))
    steps = 1 + BLOCK_STEPS
    half = [0] * steps + [1] * 2 * steps + [0] * 2 * steps + [1] * steps
    assert bench.order == half + [1 - index for index in half]


def test_masks_that_nobody_needs_are_not_begun_between_blocks() -> None:
    bench = Bench()
    sessions, constraint = (bench.session(0), bench.session(1)), bench.constraint(defers=True)
    measure_schema_cost(sessions, 2, "greedy", constraint, num_steps=16, clock=lambda: bench.now)
    assert [len(matcher.waits) for matcher in bench.matchers] == [1] * 4  # for the prompt's token
    assert all(len(matcher.admitted) == len(matcher.committed) - 1 for matcher in bench.matchers)


def test_what_does_not_fit_or_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, constraint = Bench(), ScriptedConstraint(lambda _ids: {1})
    with pytest.raises(BenchError, match="16 steps of batch 3 do not fit 2 slots of 256 tokens"):
        measure_schema_cost((bench.session(0), bench.session(1)), 3, "greedy", constraint, num_steps=16)
    assert tokens_needed(2, 240) == 128 + 2 + 2 + 31 * 5 + 16
    monkeypatch.setattr(schema_cost, "_AHEAD_TOKENS", -8)
    with pytest.raises(BenchError, match="a sequence ended before it was measured"):
        measure_schema_cost((bench.session(0), bench.session(1)), 2, "greedy", constraint, num_steps=16)


def test_the_interval_of_a_median_is_two_of_its_values() -> None:
    # Of 11 values the 2nd and the 10th: P(at most 1 below the median) = 12/2048, twice 0.6 %; for the 3rd twice 3.3 %.
    assert median_interval([float(value) for value in range(11)]) == Interval(5.0, 1.0, 9.0)
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0)
    assert median_interval([float(value) for value in range(6)]) == Interval(2.5, 0.0, 5.0)


def test_the_table() -> None:
    cost = SchemaCost(16, "top-p", 4, [1.0, 1.02, 1.04], Interval(1.02, 1.0, 1.04), 60_000.0, 61_200.0)
    assert schema_table([cost]).rows == (("b16 top-p", "60.000", "61.200", "1.020", "1.000 to 1.040", "3"),)
