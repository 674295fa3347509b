"""Runs a package as a server on the CPU would: is every file whole, does it load, and does it agree with itself?

One text is computed in one prompt, and once more as a shorter prompt whose last tokens are decoded one by one, in
another slot: other kernels, other rows of the cache, the same model. What a GPU computes, a server asks when it starts.
"""

from __future__ import annotations

import numpy as np
from runtime.errors import PlanError
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package
from runtime.session.distribution import kl_divergence, log_softmax
from runtime.session.session import decode_logits

MAX_KL = 0.2
"""Nats between prefill and decode of the same token, at worst. Rounding alone costs the default model 0.013 in int8,
whose kernels round one row and many differently, 0.00003 in float16 and nothing in w8a8; a wrong token costs it 5."""

_TOKENS, _DECODED = 24, 4


def self_test(package: Package) -> dict[str, str]:
    """Facts: the worst KL in nats. Raises PlanError where logits are no numbers, or above ``MAX_KL``."""
    length = min(_TOKENS, package.manifest.max_model_len)
    options = ModelOptions(num_slots=2, max_model_len=max(16, length))
    session = session_factory(package, plan_model(package, options), options)()
    try:
        tokens = np.random.default_rng(0).integers(0, package.manifest.shape.vocab_size, length).astype(np.int64)
        whole = session.prefill(0, tokens, 0, _DECODED).copy()
        session.prefill(1, tokens[:-_DECODED], 0, 1)
        rows = [
            decode_logits(session, 1, tokens[place : place + 1], np.array([place], np.int64))[0].copy()
            for place in range(length - _DECODED, length)
        ]
    finally:
        session.close()
    if not (np.isfinite(whole).all() and np.isfinite(rows).all()):
        raise PlanError("the package's graph gives logits that are no numbers; do not serve it")
    worst = float(kl_divergence(log_softmax(whole), log_softmax(np.array(rows))).max())
    if not worst <= MAX_KL:
        raise PlanError(
            f"the package's graph does not agree with itself: up to {worst:.3g} nats between prompt and decode, "
            f"the limit is {MAX_KL:g}; do not serve it"
        )
    return {"max_kl": f"{worst:.3g}"}
