"""Distributions of prompt and answer lengths, as a person writes them on the command line. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bench.errors import BenchError

_FORMS = "N, LOW-HIGH (uniform) or MEAN+-STD (normal, at least 1)"


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts: uniform in ``low..high`` when ``std`` is 0, else normal around ``mean``, never below 1."""

    low: int
    high: int
    mean: float
    std: float = 0.0

    def draw(self, rng: np.random.Generator) -> int:
        """One length, at least 1."""
        if self.std > 0:
            return max(1, round(float(rng.normal(self.mean, self.std))))
        return int(rng.integers(self.low, self.high + 1))


def parse_lengths(text: str) -> Lengths:
    """Parse ``128``, ``64-256`` or ``128+-32``. Raises BenchError."""
    compact = text.replace(" ", "").replace("±", "+-")
    if match := re.fullmatch(r"(\d+)(?:-(\d+))?", compact):
        low = int(match[1])
        high = int(match[2] or low)
        if 1 <= low <= high:
            return Lengths(low, high, (low + high) / 2)
    elif match := re.fullmatch(r"(\d+)\+-(\d+)", compact):
        mean, std = int(match[1]), int(match[2])
        if mean >= 1 and std >= 1:
            return Lengths(1, 0, float(mean), float(std))
    raise BenchError(f"length {text!r} is not {_FORMS}")
