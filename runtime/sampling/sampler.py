"""Logits [B, V] and constraints' masks -> one token id per row, with log-probabilities for the rows that asked.

Rows are independent: a row's draw uses its own generator, derived from (seed, choice index), so no other request can
shift it. Knows the rules' order (docs/contract.md); knows no slots and no text.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.events import TokenLogprobs
from runtime.request import Request
from runtime.sampling.allowed_tokens import Allowed, EndTokens, few_allowed, hide_others
from runtime.sampling.logit_rules import LogitRules
from runtime.sampling.row_scan import RowScan
from runtime.sampling.token_choice import draw
from runtime.session.session import FloatArray
from runtime.token_mask import is_allowed

_LOG = logging.getLogger("powertrain.sampler")

LOGPROB_FLOOR = -9999.0
"""Stands for -inf, which JSON cannot carry."""

_UNIFORMS = 32


class SamplerState:
    """A choice's own randomness and rules. Each token takes one number of the seed's, greedy ones none.

    ``tells_token_only``: no rule changes its logits and no log-probabilities are asked for. ``takes_sole``: nor does
    any rule change what a constraint allows. ``takes_best``: nor does chance, so it is the likeliest token or, where
    the constraint does not admit that, the likeliest of its mask.

    ``run`` calls a function with numpy's floating-point warnings off: infinities are looked for, not warned about.
    Entering such a context costs a tenth of what ``np.errstate`` does, which is 15 us with the caches cold.
    """

    def __init__(self, request: Request, index: int) -> None:
        self.params = request.sampling
        self.rules = LogitRules(request)
        self.ends = EndTokens(request)
        self.tells_token_only = self.rules.is_neutral and self.params.logprobs is None
        self.takes_sole = self.tells_token_only and self.ends.is_neutral
        self.takes_best = self.takes_sole and self.params.is_greedy
        self._uniforms: list[float] = []  # the next ones, last first
        self._generator: np.random.Generator | None = None
        if not self.params.is_greedy:
            seed = self.params.seed
            entropy = None if seed is None else [seed % 2**64, index]
            self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        quiet = Context()
        quiet.run(np.seterr, all="ignore")
        self.run = quiet.run

    def uniform(self) -> float:
        """Use up the next number in [0, 1) of this choice's own stream; 0 for a greedy one."""
        if self._generator is None:
            return 0.0
        self.upcoming(0)
        return self._uniforms.pop()

    def upcoming(self, ahead: int) -> float:
        """The number ``ahead`` >= 0 after the next one, of which none is used up: a token may yet not come of it."""
        if self._generator is None:
            return 0.0
        if len(self._uniforms) <= ahead:  # several at a time: a call costs as much as a pass over a row
            self._uniforms[:0] = self._generator.random(_UNIFORMS).tolist()[::-1]
        return self._uniforms[-1 - ahead]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One drawn token."""

    token_id: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class NoToken:
    """Why a row gave no token; ``for_client`` if that follows from the request and the text is fit for its client."""

    error: str
    for_client: bool


UNUSABLE = NoToken("the model produced no usable number", for_client=False)


def sample(
    logits: FloatArray, states: Sequence[SamplerState | None], allowed: Sequence[Allowed | None] | None = None
) -> list[Sampled | NoToken | None]:
    """Draw a token for each row of ``logits`` [B, V] that has a state; None for the others.

    ``allowed`` holds what the rows' constraints allow, None where there is none. NoToken for a row that holds NaN or
    nothing but -inf, or whose constraint and rules leave nothing, or that its rules break on: its choice must end with
    an error, the others go on. ``logits`` is scratch afterwards. Rows go one by one: one fits the core's cache from its
    maximum to its draw, a batch does not, and no row's bits can depend on the others.
    """
    masks = allowed or [None] * len(states)
    return [
        None if state is None else _sample_alone(row, state, mask)
        for row, state, mask in zip(logits, states, masks, strict=True)
    ]


def likeliest(logits: FloatArray, state: SamplerState) -> int | None:
    """The largest of a row [V]; the lowest id of several. None if the row holds NaN, or no finite number is largest."""
    return state.run(_argmax, logits)


def _sample_alone(logits: FloatArray, state: SamplerState, allowed: Allowed | None) -> Sampled | NoToken:
    try:
        return state.run(_sample_row, logits, state, allowed)
    except (ArithmeticError, LookupError, MemoryError, ValueError):  # one request's rules must not end the others
        _LOG.exception("a row could not be sampled with %s", state.params)
        return UNUSABLE


def _sample_row(logits: FloatArray, state: SamplerState, allowed: Allowed | None) -> Sampled | NoToken:
    """Sample from a row [V], which is scratch afterwards. The constraint comes before every other rule."""
    params = state.params
    uniform = state.uniform()  # whatever comes of it: a seed's n-th number belongs to the choice's n-th token
    sole = allowed.sole if allowed is not None and state.takes_sole else None
    if sole is not None and math.isfinite(logits[sole]):
        return Sampled(sole, None)  # without a look at the others: half of all tokens of JSON come so
    is_ruled = allowed is not None or not state.rules.is_neutral
    best = _argmax(logits) if is_ruled else -1
    if best is None:  # before the rules hide it
        return UNUSABLE
    ids = None
    if allowed is not None:
        mask = state.ends.applied(allowed)
        if params.is_greedy and state.tells_token_only and is_allowed(mask, best):
            return Sampled(best, None)
        ids = few_allowed(mask, len(logits))
        if ids is None:
            hide_others(logits, mask)
        elif not len(ids):
            return _nothing_left(state, allowed)
    if ids is None and params.logprobs is not None and state.rules.is_neutral:
        return _sample_scanned(logits, state, allowed, uniform)
    raw = None if params.logprobs is None else _only(logits, ids)
    state.rules.apply(logits)
    values = logits if ids is None else logits.take(ids)
    drawn = _argmax(values) if params.is_greedy or len(values) == 1 else draw(values, params, uniform)
    if drawn is None:
        return _nothing_left(state, allowed) if is_ruled else UNUSABLE
    token_id = drawn if ids is None else int(ids[drawn])
    state.rules.observe(token_id)
    if raw is None:
        return Sampled(token_id, None)
    return Sampled(token_id, token_logprobs(raw, token_id, params.logprobs or 0))


def _sample_scanned(
    logits: FloatArray, state: SamplerState, allowed: Allowed | None, uniform: float
) -> Sampled | NoToken:
    """Sample from a row [V] that no rule changes, and tell log-probabilities: one pass over it does for both."""
    params = state.params
    temperatures = (1.0,) if params.is_greedy else (params.temperature, 1.0)
    scan = RowScan(logits, *dict.fromkeys(temperatures), precise=True)
    if not scan.is_usable:
        return UNUSABLE if allowed is None else _nothing_left(state, allowed)
    drawn = scan.best if params.is_greedy else draw(logits, params, uniform, scan)
    token_id = int(drawn or 0)  # a usable row always gives one
    state.rules.observe(token_id)
    return Sampled(token_id, token_logprobs(logits, token_id, params.logprobs or 0, scan))


def _only(logits: FloatArray, ids: NDArray[np.int64] | None) -> FloatArray:
    """A copy of a row [V] with -inf for all but ``ids``; None is all."""
    if ids is None:
        return logits.copy()
    row = np.full_like(logits, -np.inf)
    row[ids] = logits[ids]
    return row


def _nothing_left(state: SamplerState, allowed: Allowed | None) -> NoToken:
    fields = [] if allowed is None else ["the constraint on the answer"]
    fields += state.rules.banning
    if allowed is not None and state.params.stop_token_ids and not allowed.may_end:
        fields.append("stop_token_ids")
    names = ", ".join(fields) or "the rules of the request"
    return NoToken(f"no token may come next by all of these: {names}", for_client=True)


def _argmax(logits: FloatArray) -> int | None:
    """Where a row [V] is largest; None if a logit is NaN, which argmax finds first, or the largest is infinite."""
    best = int(logits.argmax())
    return best if math.isfinite(logits[best]) else None


def token_logprobs(logits: FloatArray, token_id: int, num_top: int, scan: RowScan | None = None) -> TokenLogprobs:
    """The drawn token's log-probability and those of the ``num_top`` likeliest, best first, ties by lower id.

    ``scan`` is that of the row if it was scanned, temperature 1 last.
    """
    scan = scan or RowScan(logits, 1.0, precise=True)
    total = scan.peak + math.log(scan.totals[-1])  # a token's log-probability is its logit minus this
    top = [(token, _floored(float(logits[token]) - total)) for token in scan.largest(num_top).tolist()]
    return TokenLogprobs(_floored(float(logits[token_id]) - total), tuple(top))


def _floored(value: float) -> float:
    return max(value, LOGPROB_FLOOR)
