"""What the engine says of its own work: one report per step, and running totals. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.events import Event


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where a step's nanoseconds went. ``run`` is inside the backend; ``bind`` is the session's own work around it."""

    plan_ns: int = 0
    copy_ns: int = 0
    bind_ns: int = 0
    run_ns: int = 0
    sample_ns: int = 0
    commit_ns: int = 0


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced. ``num_decoded`` and ``num_prefilled`` count tokens."""

    events: list[Event]
    num_decoded: int
    num_prefilled: int
    times: StepTimes


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Token counts are cumulative; ``kv_used_tokens`` are rows owned by live sequences."""

    num_running: int = 0
    num_waiting: int = 0
    num_slots: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0
    num_steps: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
