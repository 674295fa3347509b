"""Logits [B, V] -> one token id per row, with log-probabilities for the rows that asked.

Rows are independent: a row's draw uses its own generator, derived from (seed, choice index), so no other request can
shift it. Knows the rules' order (docs/contract.md); knows no slots and no text.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.events import TokenLogprobs
from runtime.logit_rules import LogitRules
from runtime.request import Request
from runtime.session import FloatArray
from runtime.token_choice import draw

_LOG = logging.getLogger("powertrain.sampler")

LOGPROB_FLOOR = -9999.0
"""Stands for -inf, which JSON cannot carry."""

_BLOCK = 256


class SamplerState:
    """A choice's own randomness and rules."""

    def __init__(self, request: Request, index: int) -> None:
        self.params = request.sampling
        self.rules = LogitRules(request)
        self._generator: np.random.Generator | None = None
        if not self.params.is_greedy:
            seed = self.params.seed
            entropy = None if seed is None else [seed % 2**64, index]
            self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))

    def uniform(self) -> float:
        """The next number in [0, 1) of this choice's own stream; 0 for a greedy one."""
        return float(self._generator.random()) if self._generator is not None else 0.0


@dataclass(frozen=True, slots=True)
class Sampled:
    """One drawn token. ``token_id`` is -1 when the row held no usable number; the choice must end with an error."""

    token_id: int
    logprobs: TokenLogprobs | None


FAILED = Sampled(-1, None)


def sample(logits: FloatArray, states: list[SamplerState | None]) -> list[Sampled]:
    """Draw a token for each row of ``logits`` [B, V]; rows with state None are skipped and come back as FAILED.

    ``logits`` is scratch afterwards. NaN, nothing but -inf, or rules that break on a row fail that row alone.
    """
    # NaN compares false with everything, and argmax returns the first NaN: its value tells a bad row from a good one.
    best = logits.argmax(axis=1)
    sampled: list[Sampled] = []
    for row, state in enumerate(states):
        if state is None or not np.isfinite(logits[row, best[row]]):
            sampled.append(FAILED)
            continue
        try:
            with np.errstate(all="ignore"):  # infinities are looked for, not warned about
                sampled.append(_sample_row(logits[row], int(best[row]), state))
        except Exception:  # noqa: BLE001 - whatever one request's rules raise must not end the others
            _LOG.exception("a row could not be sampled with %s", state.params)
            sampled.append(FAILED)
    return sampled


def _sample_row(logits: FloatArray, best: int, state: SamplerState) -> Sampled:
    params = state.params
    raw = None if params.logprobs is None else logits.copy()
    if not state.rules.is_neutral:
        state.rules.apply(logits)
        best = int(logits.argmax())
        if not np.isfinite(logits[best]):
            return FAILED
    token_id = best if params.is_greedy else draw(logits, float(logits[best]), params, state.uniform())
    state.rules.observe(token_id)
    if raw is None:
        return Sampled(token_id, None)
    return Sampled(token_id, token_logprobs(raw, token_id, params.logprobs or 0))


def log_total(logits: FloatArray) -> float:
    """log(sum(exp(logits))) of a row [V]; a token's log-probability is its logit minus this."""
    peak = logits.max()
    return float(peak) + float(np.log(np.exp(logits - peak).sum()))


def token_logprobs(logits: FloatArray, token_id: int, num_top: int) -> TokenLogprobs:
    """The drawn token's log-probability and those of the ``num_top`` likeliest, best first, ties by lower id."""
    total = log_total(logits)
    top = [(int(token), _floored(float(logits[token]) - total)) for token in _largest(logits, num_top)]
    return TokenLogprobs(_floored(float(logits[token_id]) - total), tuple(top))


def _largest(logits: FloatArray, count: int) -> NDArray[np.int64]:
    """Ids of the ``count`` largest values of a row [V], largest first."""
    if count <= 0:
        return np.empty(0, np.int64)
    whole = len(logits) // _BLOCK * _BLOCK
    floor = -np.inf
    if whole // _BLOCK > count:
        # Each of the count largest blocks holds a value that reaches the smallest of their maxima.
        floor = np.partition(logits[:whole].reshape(-1, _BLOCK).max(axis=1), -count)[-count]
    ids = np.flatnonzero(logits >= floor)
    return ids[np.argsort(-logits[ids], kind="stable")][:count]


def _floored(value: float) -> float:
    return max(value, LOGPROB_FLOOR)
