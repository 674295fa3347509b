"""Reports of simulated runs."""

from __future__ import annotations

import numpy as np

from bench.http.load import LoadPlan
from bench.metrics.checks import Check, loop_lag
from bench.proof.mock_server import MockBehaviour
from bench.proof.prove import Simulation, simulate
from bench.report.results import Point, Report, RunResult, new_report, request_table

BLOCK = {"powertrain": "0.1.0", "unix_time": "1700000000", "cpu": "a cpu", "cores": "2"}


BLOCK |= {"memory_gib": "24.0", "system": "Linux", "python": "CPython 3.11"}


def run_of(simulation: Simulation, checks: list[Check] | None = None) -> RunResult:
    return RunResult(
        started_unix=1.7e9,
        measurement=simulation.measurement,
        checks=checks or [loop_lag(np.zeros(100))],
        requests=request_table(simulation.records),
    )


def point(target: str, concurrency: int, ttft_ms: float = 100.0, *, behaviour: MockBehaviour | None = None) -> Point:
    behaviour = behaviour or MockBehaviour(ttft_ms=ttft_ms, itl_ms=10)
    runs = [run_of(simulate(behaviour, LoadPlan(concurrency=concurrency, request_count=8), output_tokens=11))]
    name = f"concurrency {concurrency}"
    return Point(target, f"http://{target}/v1", "mock", name, concurrency, None, runs * 2, isl="8", osl="11")


def report(points: list[Point]) -> Report:
    return new_report("A <title> & more", {"seed": 0}, BLOCK, points)
