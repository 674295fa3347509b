"""Draws one token from one row of logits: temperature, min_p, top_k, top_p, in that order, without a full sort.

The nucleus is found among the tokens above a falling probability threshold: any set {p >= t} that holds the wanted
mass or count contains the nucleus, and is usually a few dozen tokens out of 50,000. Pure functions of a row and a
uniform number; knows neither requests nor generators.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.request import SamplingParams
from runtime.session import FloatArray

_BLOCK = 256
_FIRST_THRESHOLD = 1e-3
_THRESHOLD_STEP = 1e-2


def draw(logits: FloatArray, params: SamplingParams, uniform: float) -> int:
    """Index drawn from softmax(logits / temperature) [V] after min_p, top_k and top_p; ``uniform`` is in [0, 1).

    Ties at a cut are broken by the lower token id. The row must be finite or -inf with one finite value at least.
    """
    weights = np.exp((logits - logits.max()) / np.float32(params.temperature))  # [V], the top token has weight 1
    if params.top_p >= 1.0 and params.top_k <= 0 and params.min_p <= 0.0:
        return _draw_from_all(weights, uniform)
    ids = _candidates(weights, params)
    kept = weights[ids].astype(np.float64)
    if params.top_p < 1.0:
        mass = np.cumsum(kept)
        ids = ids[: int(np.searchsorted(mass, params.top_p * _mass(weights, kept, params))) + 1]
        kept = kept[: len(ids)]
    return int(ids[_inverse_cdf(np.cumsum(kept), uniform)])


def _candidates(weights: FloatArray, params: SamplingParams) -> NDArray[np.int64]:
    """Ids by falling weight that hold everything that min_p, top_k and top_p can keep, cut by min_p and top_k."""
    floor = np.float32(params.min_p)
    wanted_count = params.top_k if params.top_k > 0 else 0
    # Mass of what min_p keeps; top_k's mass is only known after the cut, so there the count alone decides.
    wanted_mass = params.top_p * float(weights[weights >= floor].sum(dtype=np.float64)) if params.top_p < 1.0 else 0.0
    threshold = max(floor, np.float32(_FIRST_THRESHOLD))
    while True:
        ids = np.flatnonzero(weights >= threshold)
        enough_count = len(ids) >= wanted_count if wanted_count else wanted_mass > 0.0
        enough_mass = wanted_count or float(weights[ids].sum(dtype=np.float64)) >= wanted_mass
        if threshold <= floor or threshold <= 0 or (enough_count and enough_mass):
            break
        threshold = max(floor, threshold * np.float32(_THRESHOLD_STEP))
        if threshold < np.finfo(np.float32).tiny:
            threshold = floor
    ids = ids[np.argsort(-weights[ids], kind="stable")]
    return ids[:wanted_count] if wanted_count else ids


def _mass(weights: FloatArray, kept: NDArray[np.float64], params: SamplingParams) -> float:
    """What top_p is a share of: the weights that min_p and top_k left."""
    if params.top_k > 0:
        return float(kept.sum())
    return float(weights[weights >= np.float32(params.min_p)].sum(dtype=np.float64))


def _draw_from_all(weights: FloatArray, uniform: float) -> int:
    """Inverse CDF over the whole vocabulary in two levels, so that only one block is accumulated item by item."""
    whole = len(weights) // _BLOCK * _BLOCK
    sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
    sums = np.append(sums, weights[whole:].sum(dtype=np.float64))
    ends = np.cumsum(sums)
    target = uniform * ends[-1]
    block = min(int(np.searchsorted(ends, target, side="right")), _last_positive(sums))
    begin = block * _BLOCK
    inside = np.cumsum(weights[begin : begin + _BLOCK], dtype=np.float64)
    rest = target - (ends[block] - sums[block])
    index = min(int(np.searchsorted(inside, rest, side="right")), _last_positive(weights[begin : begin + _BLOCK]))
    return begin + index


def _inverse_cdf(ends: NDArray[np.float64], uniform: float) -> int:
    return min(int(np.searchsorted(ends, uniform * ends[-1], side="right")), len(ends) - 1)


def _last_positive(values: NDArray[np.floating]) -> int:
    """Rounding may push the target past the last token that has any weight; that token is meant then."""
    return int(np.flatnonzero(values)[-1])
