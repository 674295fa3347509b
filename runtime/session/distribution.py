"""Distributions over the next token from rows of logits, in float64: what comparing two graphs is made of.

For reports and checks; sampling has its own, in the logits' own precision. Rows go one by one, so that what is made of
a row stays in the core's cache: three times as fast as all rows at once. Knows no session.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.session.session import FloatArray

Float64Array = NDArray[np.float64]


def log_softmax(logits: FloatArray) -> Float64Array:
    """Log-probabilities float64 [N, V] of logits float32 [N, V]; the largest is subtracted first, so none overflows."""
    normalized = np.empty(logits.shape, np.float64)
    weights = np.empty(logits.shape[-1], np.float64)
    for row, values in zip(normalized, logits, strict=True):
        np.subtract(values, values.max(), out=row, dtype=np.float64)
        np.exp(row, out=weights)
        np.subtract(row, np.log(weights.sum()), out=row)
    return normalized


def kl_divergence(log_p: Float64Array, log_q: Float64Array) -> Float64Array:
    """KL(p || q) = sum of p (log p - log q) in nats, float64 [N], of log-probabilities [N, V]."""
    divergence = np.empty(len(log_p), np.float64)
    weights, terms = np.empty((2, log_p.shape[-1]), np.float64)
    for index, (p, q) in enumerate(zip(log_p, log_q, strict=True)):
        np.exp(p, out=weights)
        np.subtract(p, q, out=terms)
        terms *= weights
        divergence[index] = terms.sum()
    return divergence
