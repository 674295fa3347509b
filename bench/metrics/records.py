"""What is kept of each request: times, counts and how it ended. Plain values between the load and the metrics.

All times are nanoseconds of one monotonic clock (``time.perf_counter_ns`` or a simulated one); 0 means "never came".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Outcome(StrEnum):
    """How a request ended. Only ``OK`` enters latency metrics; the others are counted apart."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"


class Phase(StrEnum):
    """Which part of the run a request belongs to. Only ``MEASURED`` enters the metrics."""

    WARMUP = "warmup"
    MEASURED = "measured"
    COOLDOWN = "cooldown"
    PROBE = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as the client saw it.

    ``scheduled_ns`` is when the load wanted it to start, ``sent_ns`` when its bytes were written to an open
    connection. ``chunk_ns`` (int64 [chunks]) are the arrivals of chunks with text, answer or reasoning;
    ``chunk_tokens`` (int64 [chunks]) the tokens that each carried, where the endpoint reports running usage.
    ``first_answer_ns`` is the first chunk with answer text (not reasoning). ``own_tokens`` is the client's own count
    of the answer's tokens, ``asked_tokens`` the limit that it asked for.
    """

    index: int
    phase: Phase
    outcome: Outcome
    scheduled_ns: int
    sent_ns: int
    end_ns: int
    asked_tokens: int
    session: int = 0
    turn: int = 0
    headers_ns: int = 0
    first_answer_ns: int = 0
    chunk_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    chunk_tokens: NDArray[np.int64] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    own_tokens: int | None = None
    finish_reason: str | None = None
    error_kind: str | None = None
    error_text: str | None = None
    http_status: int = 0

    @property
    def output_tokens(self) -> int:
        """Generated tokens: from the endpoint's usage, else the client's own count, else the number of chunks."""
        if self.completion_tokens is not None:
            return self.completion_tokens
        return self.own_tokens if self.own_tokens is not None else len(self.chunk_ns)
