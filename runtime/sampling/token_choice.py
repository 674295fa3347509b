"""Draws one token from one row of logits: temperature, min_p, top_k, top_p, in that order, without sorting the row.

The rule: tokens stand in a line, likeliest first, equal logits by lower id. Each way of keeping takes a beginning of
that line, and one number in [0, 1) says how far along the kept weight the drawn token lies. So the same number gives
the same token wherever the rule is computed; ``runtime.package.selection_io`` states what a graph does of it.
What a pass over a row costs, and why, is in docs/architecture.md. Knows neither requests nor generators.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from operator import neg

import numpy as np
from numpy.typing import NDArray

from runtime.request import SamplingParams
from runtime.sampling.row_scan import LOWEST, RowScan
from runtime.session.session import FloatArray

Weights = NDArray[np.float64] | list[float]

_PARTS = (2.0**-8, 2.0**-12)
"""What is sought is mostly no smaller a part of what lies beyond it. Of a 135M model's rows of text that get here, a
third at temperature 0.8 and top_p 0.95, nearly all are settled at the first, with 27 tokens looked at (median)."""
_FLAT = 8.0
"""A row that weighs as much as so many of its likeliest tokens is not tried at the first."""
_SHORT = 96
"""Tokens of a line for which Python's lists take less time than numpy's functions with the caches cold."""

_LONG = 4096


def draw(logits: FloatArray, params: SamplingParams, uniform: float, scan: RowScan | None = None) -> int | None:
    """Index drawn from softmax(logits / temperature) [V] after min_p, top_k and top_p, by ``uniform`` in [0, 1).

    ``scan`` is that of the row if it was scanned, the request's temperature first. None if a logit is NaN or the
    largest is infinite. ``logits`` stay as they are. The caller keeps numpy from warning of what overflows.
    """
    is_cut = params.min_p > 0.0 or params.top_k > 0
    scan = scan or RowScan(logits, *(() if is_cut else (params.temperature,)))
    if not scan.is_usable:
        return None
    if is_cut:
        line = _Line(logits, scan, _kept_floor(scan, params), params.temperature)
        ends = _ends(_kept(line.weights, params))
        return line.token(_place(ends, float(ends[-1]), params.top_p, uniform))
    total = scan.totals[0]
    share = params.top_p * total
    # The heaviest weighs 1, and what is kept at most one token more than the share: mostly that settles it.
    most = total if params.top_p >= 1.0 else min(total, share + 1.0)
    if uniform * most < 1.0 or (share <= 1.0 and params.top_p < 1.0):
        return scan.best
    for floor in _floors(len(logits), total, share, uniform * share):
        line = _Line(logits, scan, scan.peak + params.temperature * math.log(floor), params.temperature)
        place = _settled_place(line, total, params.top_p, uniform)
        if place is not None:
            return line.token(place)
        if len(line.weights) > _LONG:
            break  # a flat row: to sort all of it once is faster than most of it again and again
    line = _Line(logits, scan, LOWEST, params.temperature)
    return line.token(_place(_ends(line.weights), total, params.top_p, uniform))


class _Line:
    """The tokens of a row [V] whose logits reach ``floor``, likeliest first, in float64 from here on.

    ``weights`` [K] are exp((logit - peak) / temperature), descending; what is not in the line weighs no more than
    ``lighter``. Values are sorted alone: only the drawn one is asked for its token. A short line is lists: with the
    caches cold each of numpy's functions costs more than all that Python does with it.
    """

    def __init__(self, logits: FloatArray, scan: RowScan, floor: float, temperature: float) -> None:
        lowest = float(np.float32(max(floor, LOWEST)))
        self.lighter = math.exp(min((lowest - scan.peak) / temperature, 0.0))
        self._ids = scan.reaching(lowest)
        values = logits.take(self._ids)
        self._values: FloatArray | list[float]
        self._ordered: FloatArray | list[float]
        self.weights: Weights
        if len(values) > _SHORT:
            self._values = values
            self._ordered = np.sort(values)[::-1]
            self.weights = np.exp((self._ordered.astype(np.float64) - scan.peak) / temperature)
        else:
            self._values = values.tolist()
            self._ordered = sorted(self._values, reverse=True)
            self.weights = [math.exp((value - scan.peak) / temperature) for value in self._ordered]

    def token(self, place: int) -> int:
        """The token at a place of the line; the last one that weighs anything for a place beyond."""
        if place >= len(self.weights) or not self.weights[place]:
            place = bisect_left(self.weights, 0.0, key=neg) - 1
        value = self._ordered[place]
        if isinstance(self._values, list):
            equals = [index for index, other in enumerate(self._values) if other == value]
        else:
            equals = (self._values == value).nonzero()[0].tolist()
        if len(equals) > 1:
            return int(self._ids[equals[place - bisect_left(self._ordered, -value, key=neg)]])
        return int(self._ids[equals[0]])


def _floors(size: int, total: float, share: float, target: float) -> Iterator[float]:
    """Weights to try as the lightest of a line that reaches ``target``, or ``share``, of a row of ``total`` weight.

    What is sought is a small part of what lies beyond it, a smaller one in a flat row. ``size`` tokens lighter than an
    even part of what lies beyond cannot make it up, so it is no smaller than that.
    """
    beyond = total - target
    if total < _FLAT:
        yield min(_PARTS[0] * beyond, 1.0)
    yield min(_PARTS[1] * beyond, 1.0)
    yield min(max((total - share) / size, beyond / (256 * size), sys.float_info.min), 1.0)


def _settled_place(line: _Line, total: float, top_p: float, uniform: float) -> int | None:
    """Place of the drawn token in a line that may end too soon; None if it does.

    What top_p keeps ends at the first token that reaches its share. If that lies beyond the line, it is lighter than
    all in it, which says closely enough how much is kept.
    """
    ends = _ends(line.weights)
    if top_p >= 1.0:
        place = bisect_right(ends, uniform * total)
        return place if place < len(ends) else None
    share = top_p * total
    cut = bisect_left(ends, share)
    if cut < len(ends):
        return bisect_right(ends, uniform * ends[cut])
    lowest = bisect_right(ends, uniform * share)
    highest = bisect_right(ends, uniform * (share + line.lighter))
    return lowest if lowest == highest < len(ends) else None


def _ends(weights: Weights) -> Weights:
    """Where each token of a line ends: the sum of its own weight and those before it."""
    return list(accumulate(weights)) if isinstance(weights, list) else weights.cumsum()


def _place(ends: Weights, mass: float, top_p: float, uniform: float) -> int:
    """Place of the drawn token, given where each of those that the other rules keep ends and what they weigh."""
    if top_p < 1.0:
        mass = float(ends[min(bisect_left(ends, top_p * mass), len(ends) - 1)])
    return bisect_right(ends, uniform * mass)


def _kept_floor(scan: RowScan, params: SamplingParams) -> float:
    """A logit that whatever top_k and min_p keep of a row reaches."""
    floor = LOWEST
    if params.top_k > 0:
        floor = max(floor, scan.floor_of_top(params.top_k))
    if params.min_p > 0.0:
        # Half of min_p: the slack is far above what rounding does to a weight, and what it lets in is dropped below.
        lowest = scan.peak + params.temperature * math.log(max(params.min_p / 2, sys.float_info.min))
        floor = max(floor, float(np.nextafter(np.float32(lowest), np.float32(-np.inf))))
    return floor


def _kept(weights: Weights, params: SamplingParams) -> Weights:
    """The beginning of ``weights`` [K], descending, that top_k and min_p keep; their order does not matter."""
    if params.top_k > 0:
        weights = weights[: params.top_k]
    if params.min_p > 0.0:
        weights = weights[: max(1, bisect_right(weights, -params.min_p, key=neg))]
    return weights
