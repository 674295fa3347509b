"""What counts mean: rates, percentiles, money, and how a loss shows; their tables and the JSON. Simulates nothing."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bench.report.tables import Table, number
from bench.simulate.fleet_run import Counts
from bench.simulate.scenario import Scenario

SCHEMA = "powertrain-bench-simulate"
SCHEMA_VERSION = 1
AFTER_LOSS_S = 30.0
"""How long after a loss requests are looked at."""


class LossEffect(msgspec.Struct, frozen=True):
    """What a lost replica does: requests that failed, and the times to first token of the 30 s before and after, ms.

    None where no first token came in that time.
    """

    failed: int
    ttft_p99_before_ms: float | None
    ttft_p99_after_ms: float | None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated fleet. Shares are 0..1, rates per second of simulated time over the whole fleet.

    ``hit_rate``: prompt tokens found in a cache / prompt tokens. ``returned_share``: later turns that found all that
    came before them / later turns. ``cost_per_million``: price of the fleet's hours / million answer tokens.
    ``busy_share``: time that replicas computed / time.
    """

    policy: str
    replicas: int
    users: int
    requests: int
    failed: int
    hit_rate: float
    returned_share: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    output_tps: float
    busy_share: float
    cost_per_million: float
    loss: LossEffect | None = None


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    """All fleets of one run of the command, and what they were fed with."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    simulated: bool = True
    step_times: str
    settings: dict[str, float | int | str]
    outcomes: list[Outcome]


def outcome(scenario: Scenario, counts: Counts, price_per_hour: float) -> Outcome:
    """The figures of one run. ``price_per_hour`` is one replica's. A run without an ended request has zeros."""
    end_s = scenario.seconds if scenario.requests is None else counts.ended_s
    window_s = max(end_s - scenario.warmup_s, 1e-9)
    output_tps = counts.answer_tokens / window_s
    ttft_ms = np.asarray(counts.ttft_s or [0.0]) * 1e3
    per_hour = output_tps * 3600 / 1e6
    return Outcome(
        policy=scenario.policy.value,
        replicas=scenario.replicas,
        users=scenario.users,
        requests=counts.requests,
        failed=counts.failed,
        hit_rate=counts.cached_tokens / max(counts.prompt_tokens, 1),
        returned_share=counts.returned_turns / max(counts.later_turns, 1),
        ttft_p50_ms=float(np.percentile(ttft_ms, 50)),
        ttft_p99_ms=float(np.percentile(ttft_ms, 99)),
        output_tps=output_tps,
        busy_share=counts.busy_s / (max(end_s, 1e-9) * scenario.replicas),
        cost_per_million=scenario.replicas * price_per_hour / per_hour if per_hour else 0.0,
        loss=_loss(scenario, counts),
    )


def _loss(scenario: Scenario, counts: Counts) -> LossEffect | None:
    if scenario.loss is None:
        return None
    at_s = scenario.loss.at_s
    return LossEffect(
        counts.failed,
        _p99_ms(counts, at_s - AFTER_LOSS_S, at_s),
        _p99_ms(counts, at_s, at_s + AFTER_LOSS_S),
    )


def _p99_ms(counts: Counts, start_s: float, stop_s: float) -> float | None:
    found = [ttft for ttft, first in zip(counts.ttft_s, counts.first_token_s, strict=True) if start_s <= first < stop_s]
    return float(np.percentile(found, 99)) * 1e3 if found else None


def outcome_table(report: SimulationReport) -> Table:
    """One line per fleet."""
    rows = tuple(
        (
            f"{one.replicas} {one.policy}",
            f"{one.users:,}",
            f"{one.requests:,}",
            f"{100 * one.hit_rate:.0f} %",
            f"{100 * one.returned_share:.0f} %",
            number(one.ttft_p50_ms),
            number(one.ttft_p99_ms),
            number(one.output_tps),
            f"{100 * one.busy_share:.0f} %",
            f"{one.cost_per_million:.2f}",
        )
        for one in report.outcomes
    )
    columns = (
        "replicas", "users", "requests", "hit rate", "returned", "TTFT p50 [ms]", "p99 [ms]", "tok/s", "busy",
        "per million tok",
    )  # fmt: skip
    return Table(f"Simulated, not measured: step times of {report.step_times}", columns, rows)


def loss_table(outcomes: Sequence[Outcome]) -> Table:
    """What the loss of one replica did to each fleet."""
    rows = tuple(
        (
            f"{one.replicas} {one.policy}",
            str(one.loss.failed),
            number(one.loss.ttft_p99_before_ms),
            number(one.loss.ttft_p99_after_ms),
        )
        for one in outcomes
        if one.loss is not None
    )
    columns = ("replicas", "failed requests", "p99 [ms], 30 s before", "30 s after")
    return Table("One replica is lost (simulated)", columns, rows)
