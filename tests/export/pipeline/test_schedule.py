"""The rules of what runs next, played through on steps whose times are given."""

from __future__ import annotations

import itertools

import pytest

from export.pipeline.schedule import Budget, Load, forecast, next_steps, ways_to_the_end

GIB = 2**30
SECONDS = {"fetch": 20.0, "int4": 90.0, "int8": 60.0, "fp16": 30.0, "plan": 40.0, "self-test": 5.0, "place": 2.0}


def matrix(models: int = 2, targets: int = 3) -> list[Load]:
    """The steps of models in three precisions for some targets, with times like a small model's."""
    loads = []
    for model, precision in itertools.product(range(models), ("int4", "int8", "fp16")):
        package, fetch = f"package {model}-{precision}", f"fetch {model}"
        if precision == "int4":
            loads.append(Load(fetch, (), SECONDS["fetch"], GIB // 4))
        loads.append(Load(package, (fetch,), SECONDS[precision], 2 * GIB))
        plans = [f"plan {model}-{precision} {target}" for target in range(targets)]
        loads += [Load(plan, (package,), SECONDS["plan"], 2 * GIB) for plan in plans]
        loads.append(Load(f"self-test {model}-{precision}", (package,), SECONDS["self-test"], GIB))
        needs = (fetch, package, *plans, f"self-test {model}-{precision}")
        loads.append(Load(f"place {model}-{precision}", needs, SECONDS["place"], GIB // 4))
    return loads


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_a_matrix_takes_hardly_longer_than_it_must(jobs: int) -> None:
    """No schedule is shorter than the work divided by the jobs, nor than the longest chain."""
    loads = matrix()
    least = max(sum(load.seconds for load in loads) / jobs, *ways_to_the_end(loads).values())
    found = forecast(loads, Budget(jobs, 8 * GIB))
    assert least <= found.seconds <= 1.1 * least
    assert found.peak_bytes <= 8 * GIB


def test_memory_bounds_what_runs_together() -> None:
    loads = matrix()
    narrow = forecast(loads, Budget(4, 3 * GIB))
    assert narrow.peak_bytes <= 3 * GIB
    assert narrow.seconds > forecast(loads, Budget(4, 8 * GIB)).seconds


def test_the_longest_way_goes_first_and_a_small_step_may_pass() -> None:
    loads = [Load("at once", (), 1, 1), Load("long", (), 1, 3), Load("end", ("long",), 9, 1), Load("other", (), 2, 3)]
    ways = ways_to_the_end(loads)
    assert ways == {"at once": 1, "long": 10, "end": 9, "other": 2}
    ready = [load for load in loads if not load.needs]
    assert [load.name for load in next_steps(ready, [], Budget(2, 4), ways)] == ["long", "at once"]
    assert [load.name for load in next_steps(ready, [], Budget(1, 4), ways)] == ["long"]
    assert next_steps(ready, [Load("running", (), 1, 4)], Budget(2, 4), ways) == []


def test_of_equal_ways_the_larger_step_goes_first() -> None:
    loads = [Load("a", (), 60, 1), Load("b", (), 60, 3), Load("c", (), 60, 3), Load("d", (), 60, None)]
    ways = ways_to_the_end(loads)
    assert [one.name for one in next_steps(loads[:3], [], Budget(3, 9), ways)] == ["b", "c", "a"]
    assert [one.name for one in next_steps(loads, [], Budget(3, 9), ways)] == ["d"]


def test_a_step_of_unknown_or_too_much_memory_runs_alone() -> None:
    for memory in (None, 99):
        loads = [Load("huge", (), 1, memory), Load("small", (), 1, 1)]
        ways = ways_to_the_end(loads)
        assert [one.name for one in next_steps(loads, [], Budget(2, 4), ways)] == ["huge"]
        assert next_steps(loads[:1], loads[1:], Budget(2, 4), ways) == []
        assert forecast(loads, Budget(2, 4)).seconds == 2
