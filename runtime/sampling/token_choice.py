"""Draws one token from one row of logits: temperature, min_p, top_k, top_p, in that order, without sorting the row.

Each rule first finds a value that nothing below can be kept by, gathers the few tokens above it, and works on those;
what a pass costs, and why, is in docs/architecture.md. Knows neither requests nor generators.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.lib.introspect import opt_func_info
from numpy.typing import NDArray

from runtime.request import SamplingParams
from runtime.session.session import FloatArray

Ids = NDArray[np.int64]
Weights = NDArray[np.float64]
_Floats = TypeVar("_Floats", FloatArray, Weights)

_STRIPE = 256
_GROUP = 64
_LOWEST = float(np.finfo(np.float32).min)
_LIGHT_TAILS = (16.0, 4.0, 1.0)
"""With text of a 135M model at top_p 0.95, 85 of 100 rows are settled at the first, all at the second."""
_SORTABLE = 1024
"""Weights up to which to sort takes no longer than a histogram (19 us)."""
_BIN_SHIFT = 45
"""A float64's upper 19 bits: sign, exponent and 7 bits of mantissa, so a histogram bin is 0.8 % wide."""
_BIN_OF_ONE = int(np.float64(1.0).view(np.int64)) >> _BIN_SHIFT
_LAST_BIN = 64 << 7


def _exponential(dispatch: str) -> tuple[np.ufunc, float]:
    """The faster of numpy's exp and exp2 for a row of float32, and the factor on its argument that makes it exp.

    ``dispatch`` is what this machine runs exp2 on. With AVX-512 numpy has a vector exp2, which takes half as long as
    its exp (11 instead of 22 us a row of 49,152) and errs less (0.9 instead of 1.5 ulp); without, it is a scalar loop.
    """
    return (np.exp, 1.0) if dispatch.startswith("baseline") else (np.exp2, math.log2(math.e))


_EXP2_LOOPS = opt_func_info(func_name="^exp2$", signature="float32").get("exp2", {}).get("ff", {})
_EXP, _EXP_SCALE = _exponential(_EXP2_LOOPS.get("current", "baseline"))


def draw(logits: FloatArray, params: SamplingParams, uniform: Callable[[], float]) -> int | None:
    """Index drawn from softmax(logits / temperature) [V] after min_p, top_k and top_p.

    ``uniform`` gives numbers in [0, 1), independent of each other, and is called once or twice. None if a logit is
    NaN or the largest is infinite. ``logits`` is overwritten. A very low one may overflow to -inf, which is right; the
    caller keeps numpy from warning of it.
    """
    # Before the peak is known, as this rounds no more than the logits are rounded already, and because the first pass
    # over a row waits for memory that another core wrote: to write at once saves waiting again to write.
    logits *= _EXP_SCALE / params.temperature
    best = int(logits.argmax())  # the first NaN, if there is any
    peak = float(logits[best])
    if not math.isfinite(peak):
        return None
    if params.min_p > 0.0 or params.top_k > 0:
        ids, weights = heaviest(logits, peak, params)
        return int(ids[_pick(weights, uniform())])
    row = _weights(logits, peak)
    ends, rest = _stripe_ends(row)
    total = float(ends[-1]) + rest
    share = params.top_p * total
    if params.top_p < 1.0 and share <= 1.0:  # what ``best`` weighs: the model is sure
        return best
    token_id = _pick_striped(row, ends, uniform() * total)
    if params.top_p >= 1.0 or is_in_nucleus(row, token_id, total, share):
        return token_id
    ids, weights = nucleus(row, total, share)
    return int(ids[_pick(weights, uniform())])


def is_in_nucleus(row: FloatArray, token_id: int, total: float, share: float) -> bool:
    """Whether the tokens before this one, heaviest first, ties by lower id, weigh less than ``share``.

    ``row`` [V] weighs ``total``. With top_p 0.95 and text of a 135M model, six of ten drawn tokens alone weigh more
    than all that may be left out, which settles it.
    """
    weight = row[token_id]
    if float(weight) > total - share:
        return True
    from_it_on = row[row >= weight]
    if float(np.add.reduce(from_it_on)) < share:
        return True
    heavier = from_it_on[from_it_on > weight]
    num_before = int(np.count_nonzero(row[:token_id] == weight))
    return float(np.add.reduce(heavier)) + num_before * float(weight) < share


def nucleus(row: FloatArray, total: float, share: float) -> tuple[Ids, Weights]:
    """Ids [K], ascending, that hold the fewest tokens that reach ``share`` of a row [V]; weights [K], 0 if not kept."""
    ids, weights = _above_tail(row, total, share)
    _drop(weights, weights, *_nucleus_cut(weights, share))
    return ids, weights


def floor_of_top(logits: FloatArray, count: int) -> float:
    """A value that at least ``count`` > 0 logits of a row [V] reach, and not many more; -inf if it has no more.

    Each of the ``count`` groups with the largest maxima holds one. Groups take every n-th token, so that the maxima
    of all come from element-wise passes, which is thrice as fast as reducing one short block after another.
    """
    if count >= len(logits):
        return -math.inf
    size = max(1, min(_GROUP, len(logits) // (4 * count)))
    num_groups = len(logits) // size
    maxima = np.maximum.reduce(logits[: size * num_groups].reshape(size, num_groups), axis=0)
    maxima.partition(num_groups - count)
    return float(maxima[num_groups - count])


def _weights(logits: _Floats, peak: float) -> _Floats:
    """exp((logits - peak) / temperature) of scaled logits, in place: the top token weighs 1."""
    logits -= peak
    _EXP(logits, out=logits)
    return logits


def heaviest(logits: FloatArray, peak: float, params: SamplingParams) -> tuple[Ids, Weights]:
    """Ids [K], ascending, that hold all that min_p, top_k and top_p keep of a row [V]; weights [K], 0 if not kept.

    ``logits`` have been scaled for ``_EXP``, and ``peak`` is their largest. At least one of min_p and top_k is in
    force; both keep the start of the same order, so it does not matter which goes first. Ties at a cut are broken by
    the lower token id.
    """
    floor = _LOWEST  # a masked token, of logit -inf, is no candidate
    if params.top_k > 0:
        floor = max(floor, floor_of_top(logits, params.top_k))
    if params.min_p > 0.0:
        # Half of min_p: the slack is far above what rounding does to a weight, and what it lets in is dropped below.
        lowest = peak + _EXP_SCALE * math.log(max(params.min_p / 2, sys.float_info.min))  # the half of 5e-324 is 0
        floor = max(floor, float(np.nextafter(np.float32(lowest), np.float32(-np.inf))))
    ids = (logits >= floor).nonzero()[0]
    values = logits.take(ids)
    weights = _weights(values.astype(np.float64), peak)
    if 0 < params.top_k < len(ids):
        cut = np.partition(values, len(ids) - params.top_k)[len(ids) - params.top_k]
        _drop(weights, values, cut, int(np.count_nonzero(values >= cut)) - params.top_k)
    if params.min_p > 0.0:
        _drop(weights, weights, params.min_p, 0)
    if params.top_p < 1.0:
        _drop(weights, weights, *_nucleus_cut(weights, params.top_p * float(np.add.reduce(weights))))
    return ids, weights


def _above_tail(row: FloatArray, total: float, share: float) -> tuple[Ids, Weights]:
    """Ids, ascending, of the fewest tokens that reach ``share``, and more; their weights. ``row`` weighs ``total`` [V].

    V tokens lighter than ``even`` cannot make up the mass beyond the share, so the fewest lie above it. Mostly they
    lie far above, since nearly all of a vocabulary weighs next to nothing: try that first.
    """
    even = (total - share) / len(row)
    for factor in _LIGHT_TAILS:
        ids = (row >= min(factor * even, 1.0)).nonzero()[0]
        weights = row.take(ids).astype(np.float64)
        if float(np.add.reduce(weights)) >= share:
            return ids, weights
    ids = row.nonzero()[0]  # a share so near to the total that rounding decides
    return ids, row.take(ids).astype(np.float64)


def _nucleus_cut(weights: Weights, share: float) -> tuple[float, int]:
    """The lightest weight of the fewest of ``weights`` [N] that reach ``share``, and how many that equal it are over.

    A histogram of many weights finds the 0.8 % wide bin of the cut, and only that is sorted.
    """
    if len(weights) > _SORTABLE:
        # Positive floats are ordered like their bits. What weighs next to nothing shares the last bin.
        bins = np.minimum(_BIN_OF_ONE - (weights.view(np.int64) >> _BIN_SHIFT), _LAST_BIN)
        heavier = np.bincount(bins, weights=weights).cumsum()
        place = min(int(heavier.searchsorted(share)), len(heavier) - 1)
        inside = weights.take((bins == place).nonzero()[0])
        if len(inside) < len(weights):
            return _nucleus_cut(inside, share - (float(heavier[place - 1]) if place else 0.0))
    ordered = np.sort(weights)
    last = max(len(ordered) - 1 - int(ordered[::-1].cumsum().searchsorted(share)), 0)
    return float(ordered[last]), last - int(ordered.searchsorted(ordered[last]))


def _drop(weights: Weights, values: FloatArray | Weights, cut: float, num_over: int) -> None:
    """Zero ``weights`` [N] whose ``values`` [N] are below ``cut``, and the last ``num_over`` of those that equal it."""
    inside = values >= cut
    if num_over:
        inside[(values == cut).nonzero()[0][-num_over:]] = False
    weights *= inside  # without a branch: which ones stay is a random pattern


def _pick(weights: Weights, uniform: float) -> int:
    """Inverse CDF over ``weights`` [N]."""
    ends = weights.cumsum()
    return _first_above(ends, uniform * float(ends[-1]))


def _stripe_ends(row: FloatArray) -> tuple[FloatArray, float]:
    """(cumulative weight at the end of each stripe [S], weight of what is in none) of ``row`` [V].

    Stripe s holds every S-th weight from s on, ``_STRIPE`` in all, so one element-wise pass sums all of them.
    """
    size = min(_STRIPE, len(row))
    whole = size * (len(row) // size)
    ends = np.add.reduce(row[:whole].reshape(size, -1), axis=0).cumsum()
    return ends, float(np.add.reduce(row[whole:])) if whole < len(row) else 0.0


def _pick_striped(row: FloatArray, ends: FloatArray, target: float) -> int:
    """Inverse CDF in two levels, stripe by stripe, so that only one stripe of ``row`` [V] is summed one by one."""
    in_stripes = float(ends[-1])
    whole = len(ends) * min(_STRIPE, len(row))
    if target >= in_stripes and whole < len(row):
        return whole + _first_above(row[whole:].cumsum(), target - in_stripes)
    stripe = _first_above(ends, target)
    before = float(ends[stripe - 1]) if stripe else 0.0
    return stripe + len(ends) * _first_above(row[stripe : whole : len(ends)].cumsum(), target - before)


def _first_above(ends: _Floats, target: float) -> int:
    """First index whose cumulative weight exceeds ``target``; rounding past the end means the last one with weight."""
    index = int((ends > target).argmax())
    return index if ends[index] > target else int((ends >= ends[-1]).argmax())
