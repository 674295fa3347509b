"""Order statistics and confidence intervals, each with its formula. Plain numbers in and out; no metrics, no text."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
CURVE_POINTS = 201

# Two-sided 95 % quantiles of Student's t for 1..30 degrees of freedom (NIST/SEMATECH e-Handbook, table 1.3.6.7.2).
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


class Distribution(msgspec.Struct, frozen=True):
    """Summary of a sample. ``std`` is the population's (ddof=0); percentiles interpolate linearly (numpy's "linear").

    ``curve`` is the sorted sample itself up to CURVE_POINTS values, else as many evenly spaced quantiles of it.
    """

    count: int
    mean: float
    std: float
    min: float
    max: float
    percentiles: dict[str, float]
    curve: list[float]

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return self.percentiles["p50"]

    def at(self, name: str) -> float:
        """The figure named ``count``, ``mean``, ``std``, ``min``, ``max`` or ``pNN``."""
        if name.startswith("p"):
            return self.percentiles[name]
        return float({"count": self.count, "mean": self.mean, "std": self.std, "min": self.min, "max": self.max}[name])


class Interval(msgspec.Struct, frozen=True):
    """A two-sided 95 % confidence interval around ``centre``."""

    centre: float
    low: float
    high: float


def percentile_name(percent: float) -> str:
    """``p50``, ``p99.9``."""
    return f"p{percent:g}"


def needed_count(statistic: str) -> int:
    """Values that a statistic needs to say something: percentile p 1/(1 - p/100), at the lower end 1/(p/100).

    With fewer no value lies beyond it, and the percentile is the largest (or smallest) value in disguise: p99 needs
    100, p99.9 1,000, p95 20. Everything but ``pNN`` needs 1.
    """
    if not statistic.startswith("p"):
        return 1
    percent = float(statistic[1:])
    return math.ceil(round(100.0 / min(percent, 100.0 - percent), 6))


def distribution(values: NDArray[np.float64]) -> Distribution | None:
    """Summary of ``values`` (float64 [n]); None for an empty sample, because nothing about it is defined."""
    if values.size == 0:
        return None
    ordered = np.sort(values)
    points = ordered if ordered.size <= CURVE_POINTS else np.quantile(ordered, np.linspace(0.0, 1.0, CURVE_POINTS))
    marks = np.percentile(ordered, PERCENTILES, method="linear")
    return Distribution(
        count=int(ordered.size),
        mean=float(ordered.mean()),
        std=float(ordered.std()),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        percentiles={percentile_name(p): float(v) for p, v in zip(PERCENTILES, marks, strict=True)},
        curve=[float(v) for v in points],
    )


def t_interval(values: list[float]) -> Interval | None:
    """Mean of a few repeats and Student's interval, mean +- t(0.975, n-1) * s / sqrt(n) with ddof=1; None below 2."""
    count = len(values)
    if count < 2:
        return None
    sample = np.asarray(values, np.float64)
    centre = float(sample.mean())
    quantile = _T_975[count - 2] if count - 1 <= len(_T_975) else 1.96
    half = quantile * float(sample.std(ddof=1)) / math.sqrt(count)
    return Interval(centre, centre - half, centre + half)


def ratio_interval(numerators: list[float], denominators: list[float]) -> Interval | None:
    """Geometric mean of paired ratios with its interval: exp of ``t_interval`` over ln(a_i / b_i).

    Pairs must come from the same round of an interleaved run, so that the machine's drift cancels. None below 2 pairs
    or where a value is not positive.
    """
    pairs = list(zip(numerators, denominators, strict=True))
    if any(a <= 0 or b <= 0 for a, b in pairs):
        return None
    logs = t_interval([math.log(a / b) for a, b in pairs])
    return None if logs is None else Interval(math.exp(logs.centre), math.exp(logs.low), math.exp(logs.high))


def median_interval(values: list[float]) -> Interval:
    """Median with the narrowest pair of order statistics around it that holds the true one in 95 % of samples.

    Distribution-free: the number of values below the true median is binomial(n, 1/2). Below 6 values it is the range,
    which holds it less often.
    """
    ordered, count = sorted(values), len(values)
    below, tail = 0, 0.5**count  # P(at most ``below`` values lie under the true median)
    while 2 * (tail + math.comb(count, below + 1) * 0.5**count) <= 0.05:
        below += 1
        tail += math.comb(count, below) * 0.5**count
    return Interval(float(np.median(ordered)), ordered[below], ordered[count - 1 - below])


def bootstrap_median_ratio(
    new: NDArray[np.float64], old: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """median(new) / median(old) with the percentile bootstrap's interval (Efron 1979) over independent resamples."""
    rng = np.random.default_rng(seed)
    medians_new = np.median(rng.choice(new, (resamples, new.size)), axis=1)
    medians_old = np.median(rng.choice(old, (resamples, old.size)), axis=1)
    low, high = np.percentile(medians_new / medians_old, (2.5, 97.5))
    return Interval(float(np.median(new) / np.median(old)), float(low), float(high))
