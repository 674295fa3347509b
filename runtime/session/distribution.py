"""Distributions over the next token from rows of logits, in float64: what comparing two graphs is made of.

For reports and checks; sampling has its own, in the logits' own precision. Rows of large vocabularies go one by one, so
that what is made of a row stays in the core's cache: three times as fast as all rows at once. Knows no session.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from runtime.package.golden import LEAST_LOG
from runtime.session.session import FloatArray, Int64Array

Float64Array = NDArray[np.float64]

_BAND_VALUES = 2**16


def log_softmax(logits: FloatArray) -> Float64Array:
    """Log-probabilities float64 [N, V] of logits float32 [N, V]; the largest is subtracted first, so none overflows."""
    normalized = np.empty(logits.shape, np.float64)
    for band in _bands(logits.shape):
        values, rows = logits[band], normalized[band]
        np.subtract(values, values.max(axis=-1, keepdims=True), out=rows, dtype=np.float64)
        np.subtract(rows, np.log(np.exp(rows).sum(axis=-1, keepdims=True)), out=rows)
    return normalized


def kl_divergence(log_p: Float64Array, log_q: Float64Array) -> Float64Array:
    """KL(p || q) = sum of p (log p - log q) in nats, float64 [N], of log-probabilities [N, V]."""
    divergence = np.empty(len(log_p), np.float64)
    for band in _bands(log_p.shape):
        terms = log_p[band] - log_q[band]
        terms *= np.exp(log_p[band])
        divergence[band] = terms.sum(axis=-1)
    return divergence


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Of N rows [N, V], as many at a time as fit the cache; one where even one does not."""
    rows = max(1, _BAND_VALUES // max(1, shape[-1]))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def best_tokens(logits: FloatArray, count: int) -> Int64Array:
    """The ``count`` likeliest tokens of each row, best first and the smaller id among equals: int64 [N, count]."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :count].astype(np.int64)


def gathered_log_probs(logits: FloatArray, tokens: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Log-probabilities of ``tokens`` [N, K], float64 [N, K], and of all others together, float64 [N].

    Neither is below ``LEAST_LOG``, which stands for a probability of 0.
    """
    every = log_softmax(logits)
    chosen = np.take_along_axis(every, tokens, axis=-1)
    np.put_along_axis(every, tokens, -np.inf, axis=-1)
    others = np.exp(every).sum(axis=-1)
    rest = np.log(np.maximum(others, np.exp(LEAST_LOG)))
    return np.maximum(chosen, LEAST_LOG), rest


def gathered_kl(log_p: tuple[Float64Array, Float64Array], log_q: tuple[Float64Array, Float64Array]) -> Float64Array:
    """KL(p || q) in nats, float64 [N], of what ``gathered_log_probs`` gives: all other tokens count as one.

    Merging tokens never raises a KL, so the whole distributions' is at least this.
    """
    (p, p_rest), (q, q_rest) = log_p, log_q
    divergence: Float64Array = kl_divergence(p, q) + np.exp(p_rest) * (p_rest - q_rest)
    return divergence
