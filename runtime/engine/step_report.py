"""What the engine says of its own work: one report per step, and running totals. Values only."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from runtime.events import Event

STEP_TOKEN_BOUNDS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Upper bounds of the histogram of tokens per step, as of vLLM's ``iteration_tokens_total``."""


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


class StepTokens:
    """Histogram of tokens per step as vLLM counts them: those generated, and those of prompts, cached ones included.

    Its sum is the prompt and generated tokens of all choices. A prompt counts in the steps that compute it.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(STEP_TOKEN_BOUNDS) + 1)
        self._total = 0

    def observe(self, num_tokens: int) -> None:
        """Count one step."""
        self._counts[bisect_left(STEP_TOKEN_BOUNDS, num_tokens)] += 1
        self._total += num_tokens

    def snapshot(self) -> tuple[tuple[int, ...], int]:
        """Steps per bucket, the last one open-ended, and the sum of their tokens."""
        return tuple(self._counts), self._total


@dataclass(slots=True)
class Totals:
    """What an engine has done so far. Steps add to it."""

    num_steps: int = 0
    run_ns: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    step_tokens: StepTokens = field(default_factory=StepTokens)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Counts are cumulative; ``kv_used_tokens`` are rows owned by live sequences.

    ``run_ns`` is the time spent inside the backend. ``step_tokens`` is ``StepTokens.snapshot``.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_slots: int = 0
    kv_used_tokens: int = 0
    kv_capacity_tokens: int = 0
    num_steps: int = 0
    run_ns: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    step_tokens: tuple[tuple[int, ...], int] = ((), 0)
