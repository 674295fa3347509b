"""When an open loop starts its conversations: arrival processes as sequences of start times. Pure; no clock.

Gaps have mean 1/rate: ``constant`` exactly, ``poisson`` exponential, ``gamma`` with shape ``burstiness`` (1 is Poisson,
below 1 burstier, above 1 smoother), the parameter of the same name in vLLM's benchmark and AIPerf's smoothness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class ArrivalPattern(StrEnum):
    """The process that gaps between arrivals are drawn from."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """An arrival process. The rate climbs linearly from 0 to ``rate_per_s`` during the first ``ramp_s`` seconds."""

    pattern: ArrivalPattern
    rate_per_s: float
    burstiness: float = 1.0
    ramp_s: float = 0.0

    def starts_s(self, rng: np.random.Generator) -> Iterator[float]:
        """Endless start times in seconds from the beginning of the run."""
        # Unit-rate arrivals, mapped through the inverse of the cumulative rate: a ramp keeps the process's shape.
        elapsed = 0.0
        while True:
            yield self._time_of(elapsed)
            elapsed += self._gap(rng)

    def _gap(self, rng: np.random.Generator) -> float:
        if self.pattern is ArrivalPattern.CONSTANT:
            return 1.0
        shape = 1.0 if self.pattern is ArrivalPattern.POISSON else self.burstiness
        return float(rng.gamma(shape, 1.0 / shape))

    def _time_of(self, arrivals: float) -> float:
        """The time at which that many arrivals are expected: the inverse of r t^2 / 2R, then of r (t - R/2)."""
        ramp_arrivals = self.rate_per_s * self.ramp_s / 2.0
        if arrivals < ramp_arrivals:
            return float(np.sqrt(2.0 * self.ramp_s * arrivals / self.rate_per_s))
        return self.ramp_s / 2.0 + arrivals / self.rate_per_s
