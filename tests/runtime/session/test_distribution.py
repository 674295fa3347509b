"""Distributions from logits, against values worked out by hand and against the same over all rows at once."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from runtime.session.distribution import kl_divergence, log_softmax


def test_log_softmax_by_hand() -> None:
    found = log_softmax(np.array([[0, log(3)], [1000, 1000]], np.float32))
    assert found.dtype == np.float64
    assert found == pytest.approx(np.log([[0.25, 0.75], [0.5, 0.5]]), abs=1e-7)


def test_divergence_by_hand() -> None:
    p, q = np.log([[0.25, 0.75], [0.5, 0.5]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    assert kl_divergence(p, q) == pytest.approx([0.25 * log(0.5) + 0.75 * log(1.5), 0.0], abs=1e-15)


def test_a_row_alone_has_the_bits_that_it_has_among_others() -> None:
    rng = np.random.default_rng(0)
    logits, others = rng.normal(0, 5, (2, 7, 4099)).astype(np.float32)
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    p, q = log_softmax(logits), log_softmax(others)
    assert np.array_equal(p, shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
    assert np.array_equal(kl_divergence(p, q), (np.exp(p) * (p - q)).sum(axis=-1))
