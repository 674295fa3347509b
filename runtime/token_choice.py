"""Draws one token from one row of logits: temperature, min_p, top_k, top_p, in that order, without a full sort.

What top_k and top_p keep is found among the tokens above a falling weight threshold, usually a few dozen out of
50,000; a flat distribution's nucleus is cut by a histogram of weights, and only the bin at the cut is sorted. Pure
functions of a row and a uniform number; knows neither requests nor generators.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.request import SamplingParams
from runtime.session import FloatArray

Ids = NDArray[np.int64]

_BLOCK = 256
_FIRST_THRESHOLD = 1e-3
_THRESHOLD_STEP = 1e-2
_SMALLEST_WEIGHT = float(np.finfo(np.float32).tiny)
_SORTABLE = 2048
_BIN_SHIFT = 16
"""A float32's upper 16 bits: sign, exponent and 7 bits of mantissa, so a histogram bin is 0.8 % wide."""


def draw(logits: FloatArray, peak: float, params: SamplingParams, uniform: float) -> int:
    """Index drawn from softmax(logits / temperature) [V] after min_p, top_k and top_p; ``uniform`` is in [0, 1).

    ``peak`` is the row's maximum, finite. Ties at a cut are broken by the lower token id; kept tokens are laid out by
    id. ``logits`` is overwritten.
    """
    weights = _weights(logits, peak, params.temperature)
    if params.min_p <= 0.0 and params.top_k <= 0 and params.top_p >= 1.0:
        return _draw_from_all(weights, uniform)
    ids = _kept(weights, params)
    mass = np.cumsum(weights[ids], dtype=np.float64)
    return int(ids[_first_above(mass, uniform * float(mass[-1]))])


def _weights(logits: FloatArray, peak: float, temperature: float) -> FloatArray:
    """exp((logits - peak) / temperature) in place: the top token weighs 1."""
    logits -= np.float32(peak)
    if temperature != 1.0:
        logits *= np.float32(1.0 / temperature)
    return np.exp(logits, out=logits)


def _kept(weights: FloatArray, params: SamplingParams) -> Ids:
    """Ids that min_p, then top_k, then top_p keep, ascending."""
    total = 0.0
    if params.min_p > 0.0:
        ids = np.flatnonzero(weights >= np.float32(params.min_p))
        total = float(weights[ids].sum(dtype=np.float64))
    else:
        total = float(weights.sum())
        ids = _candidates(weights, params, total)
    if 0 < params.top_k < len(ids):
        ids = _top(weights, ids, params.top_k)
    if params.top_p >= 1.0:
        return ids
    if params.top_k > 0:
        total = float(weights[ids].sum(dtype=np.float64))
    return np.sort(_nucleus(weights[ids], ids, params.top_p * total))


def _candidates(weights: FloatArray, params: SamplingParams, total: float) -> Ids:
    """Every token that top_k and top_p can keep, and maybe more, ascending."""
    wanted_mass = params.top_p * total if params.top_p < 1.0 and params.top_k <= 0 else 0.0
    threshold = _FIRST_THRESHOLD
    while threshold > _SMALLEST_WEIGHT:
        ids = np.flatnonzero(weights >= np.float32(threshold))
        enough_mass = wanted_mass == 0.0 or float(weights[ids].sum(dtype=np.float64)) >= wanted_mass
        if len(ids) >= params.top_k and enough_mass:
            return ids
        threshold *= _THRESHOLD_STEP
    return np.flatnonzero(weights)


def _top(weights: FloatArray, ids: Ids, count: int) -> Ids:
    """The ``count`` heaviest of ``ids``, ascending."""
    values = weights[ids]
    cut = np.partition(values, len(ids) - count)[len(ids) - count]
    above, ties = ids[values > cut], ids[values == cut]
    return np.sort(np.concatenate([above, ties[: count - len(above)]]))


def _nucleus(values: FloatArray, ids: Ids, share: float) -> Ids:
    """The fewest of ``ids`` whose ``values`` reach ``share``, heaviest first; at least one."""
    if len(ids) > _SORTABLE:
        bins = values.view(np.int32) >> _BIN_SHIFT  # positive floats are ordered like their bits
        heavier = np.cumsum(np.bincount(bins, weights=values)[::-1])
        boundary = int(bins.max()) - min(int(np.searchsorted(heavier, share)), len(heavier) - 1)
        above, inside = bins > boundary, bins == boundary
        if not inside.all():
            rest = share - float(values[above].sum(dtype=np.float64))
            return np.concatenate([ids[above], _nucleus(values[inside], ids[inside], rest)])
    order = np.argsort(-values, kind="stable")
    mass = np.cumsum(values[order], dtype=np.float64)
    return ids[order[: int(np.searchsorted(mass, share)) + 1]]


def _draw_from_all(weights: FloatArray, uniform: float) -> int:
    """Inverse CDF over the whole vocabulary in two levels, so that only one block is accumulated item by item."""
    whole = len(weights) // _BLOCK * _BLOCK
    sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1)
    ends = np.cumsum(np.append(sums, weights[whole:].sum()), dtype=np.float64)
    block = _first_above(ends, uniform * float(ends[-1]))
    begin = block * _BLOCK
    inside = np.cumsum(weights[begin : begin + _BLOCK], dtype=np.float64)
    before = float(ends[block - 1]) if block else 0.0
    return begin + _first_above(inside, uniform * float(ends[-1]) - before)


def _first_above(ends: NDArray[np.float64], target: float) -> int:
    """First index whose cumulative weight exceeds ``target``; rounding past the end means the last one with weight."""
    index = int(np.searchsorted(ends, target, side="right"))
    return index if index < len(ends) else int(np.searchsorted(ends, ends[-1], side="left"))
