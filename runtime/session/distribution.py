"""Distributions over the next token from rows of logits, in float64: what comparing two graphs is made of.

For reports and checks; sampling has its own, in the logits' own precision. Knows no session.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.session.session import FloatArray

Float64Array = NDArray[np.float64]


def log_softmax(logits: FloatArray) -> Float64Array:
    """Log-probabilities float64 [N, V] of logits float32 [N, V]; the largest is subtracted first, so none overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    normalized: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def kl_divergence(log_p: Float64Array, log_q: Float64Array) -> Float64Array:
    """KL(p || q) = sum of p (log p - log q) in nats, float64 [N], of log-probabilities [N, V]."""
    divergence: Float64Array = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return divergence
