"""What one generation request did, for its log line, the metrics and the trace. Filled in while it runs.

Times are ``time.perf_counter_ns()``. Knows no exporter and no HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended: answered, failed with a 5xx or an error event, or dropped because the client left.

    ``REFUSED``: what it asks for turned out to be impossible while it ran, and nothing had been sent.
    """

    SUCCESS = "success"
    REFUSED = "refused"
    FAILURE = "failure"
    ABORT = "abort"


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One generation request. ``gaps_s`` are the times between tokens of the same choice, M - 1 for M tokens."""

    request_id: str
    model: str
    num_prompt_tokens: int
    num_choices: int
    max_tokens: int
    stream: bool
    arrival_ns: int
    clock: Callable[[], int] = time.perf_counter_ns
    submitted_ns: int = 0
    admitted_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    finish_ns: int = 0
    cached_tokens: int | None = None
    gaps_s: list[float] = field(default_factory=list)
    tokens_per_choice: dict[int, int] = field(default_factory=dict)
    finish_reasons: dict[int, str] = field(default_factory=dict)
    outcome: Outcome | None = None
    _last_ns: dict[int, int] = field(default_factory=dict)

    def token(self, index: int) -> None:
        """Note a token of choice ``index``."""
        now_ns = self.clock()
        if not self.first_token_ns:
            self.first_token_ns = now_ns
        if index in self._last_ns:
            self.gaps_s.append((now_ns - self._last_ns[index]) / 1e9)
        self._last_ns[index] = now_ns
        self.last_token_ns = now_ns
        self.tokens_per_choice[index] = self.tokens_per_choice.get(index, 0) + 1

    def end(self, outcome: Outcome) -> None:
        """Note the end; only the first call counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.finish_ns = self.clock()

    @property
    def num_generated(self) -> int:
        """Tokens generated over all choices."""
        return sum(self.tokens_per_choice.values())

    @property
    def prepare_s(self) -> float | None:
        """Formula: handed to the engine - arrival: body, template, tokens, constraint. None before that."""
        return (self.submitted_ns - self.arrival_ns) / 1e9 if self.submitted_ns else None

    @property
    def queue_s(self) -> float | None:
        """Formula: admitted - arrival, so ``prepare_s`` is a part of it. None when the engine never said."""
        return (self.admitted_ns - self.arrival_ns) / 1e9 if self.admitted_ns else None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token. Formula: first token - arrival."""
        return (self.first_token_ns - self.arrival_ns) / 1e9 if self.first_token_ns else None

    @property
    def total_s(self) -> float:
        """Formula: finish - arrival."""
        return (self.finish_ns - self.arrival_ns) / 1e9
