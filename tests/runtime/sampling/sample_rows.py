"""Rows of logits for the sampler's tests."""

from __future__ import annotations

import numpy as np

KINDS = ("normal", "peaked", "flat", "tied", "masked", "zipf", "even")


def row(kind: str, seed: int, size: int) -> np.ndarray:
    """Logits [size], float32, of the shapes that take different ways through the sampler."""
    generator = np.random.default_rng(seed)
    logits = generator.standard_normal(size) * 3
    if kind == "peaked":
        logits[generator.integers(size)] += 30
    elif kind == "flat":
        logits *= 1e-3
    elif kind == "tied":
        logits = np.round(logits)
    elif kind == "masked":
        logits[generator.random(size) < 0.97] = -np.inf
        logits[generator.integers(size)] = 0.0
    elif kind == "zipf":
        logits = -1.1 * np.log(1.0 + generator.permutation(size))
    elif kind == "even":
        logits = generator.uniform(-12, 0, size)  # a tail so heavy that the first guess at a nucleus is too small
    return logits.astype(np.float32)
