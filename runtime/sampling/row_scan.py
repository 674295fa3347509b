"""One pass over a row of logits [V]: its largest value and its weight, in chunks that stay in the core's cache.

The row is read once for all of that and not written to. Knows no rule and draws nothing; the caller keeps numpy from
warning of what overflows.
"""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
from numpy.lib.introspect import opt_func_info
from numpy.typing import NDArray

from runtime.session.session import FloatArray

Ids = NDArray[np.int64]

_CHUNK = 49_152
"""Logits of a chunk: it and its weights take 384 KiB, which fits the core's second cache."""
_STRIPES = 32
_GROUP = 64
_PROBED = 1024
_SMALL_EXPONENT = 64.0
"""exp2 of up to as much is far from overflow even summed, so that a draw need subtract nothing before."""
_NO_WEIGHT = -125.0
"""exp2 of less takes 50 ns instead of 0.3, and next to a sum of 2**-64 it is nothing."""
LOWEST = float(np.finfo(np.float32).min)
"""A masked token, of logit -inf, does not reach it."""


def _exponential(dispatch: str) -> tuple[np.ufunc, float]:
    """The faster of numpy's exp and exp2 for a row of float32, and the factor on its argument that makes it exp.

    ``dispatch`` is what this machine runs exp2 on. With AVX-512 numpy has a vector exp2, which takes half as long as
    its exp (11 instead of 22 us a row of 49,152) and errs less (0.9 instead of 1.5 ulp); without, it is a scalar loop.
    """
    return (np.exp, 1.0) if dispatch.startswith("baseline") else (np.exp2, math.log2(math.e))


_EXP2_LOOPS = opt_func_info(func_name="^exp2$", signature="float32").get("exp2", {}).get("ff", {})
_EXP, _EXP_SCALE = _exponential(_EXP2_LOOPS.get("current", "baseline"))


class RowScan:
    """A row's largest logit, ``peak``, at ``best``, the lowest such id, and ``totals``.

    A total is sum(exp((logits - peak) / temperature)), one per temperature, off by 220 parts in 2**24 at most
    (docs/architecture.md), and as a rule by a few; ``precise`` ones, for numbers that are told, by one. There are none,
    and ``is_usable`` is False, if a logit is NaN or the largest is infinite.
    """

    def __init__(self, logits: FloatArray, *temperatures: float, precise: bool = False) -> None:
        self._logits = logits
        room = np.empty(min(_CHUNK, len(logits)), np.float32)
        sums: list[list[tuple[float, float]]] = [[] for _ in temperatures]
        self.best, self.peak = 0, -math.inf
        for start in range(0, len(logits), _CHUNK):
            part = logits[start : start + _CHUNK]
            place = int(part.argmax())  # the first NaN, if there is any
            peak = float(part[place])
            if peak > self.peak or math.isnan(peak):
                self.best, self.peak = start + place, peak
            if math.isfinite(peak):
                for found, temperature in zip(sums, temperatures, strict=True):
                    found.append(_weigh(part, peak, temperature, room[: len(part)], precise=precise))
            if not peak < math.inf:
                break
        self.is_usable = math.isfinite(self.peak)
        self.totals = [
            math.fsum(weight * math.exp((base - self.peak) / temperature) for weight, base in found)
            for found, temperature in zip(sums, temperatures, strict=True)
            if self.is_usable
        ]

    def reaching(self, floor: float) -> Ids:
        """Ids, ascending, of the tokens whose logits are at least ``floor``, a float32."""
        return (self._logits >= floor).nonzero()[0]

    def floor_of_top(self, count: int) -> float:
        """A value that at least ``count`` > 0 logits reach, and not many more; -inf if it has no more.

        Each of the ``count`` groups with the largest maxima holds one. Groups take every n-th token, so that the maxima
        of all come from element-wise passes, which is thrice as fast as reducing one short block after another.
        """
        size = len(self._logits)
        if count >= size:
            return -math.inf
        members = max(1, min(_GROUP, size // (4 * count)))
        num_groups = size // members
        maxima = np.maximum.reduce(self._logits[: members * num_groups].reshape(members, num_groups), axis=0)
        maxima.partition(num_groups - count)
        return float(maxima[num_groups - count])

    def largest(self, count: int) -> Ids:
        """Ids of the ``count`` largest logits, largest first, equal ones by lower id."""
        if count <= 0:
            return np.empty(0, np.int64)
        ids = self.reaching(max(self.floor_of_top(count), LOWEST))
        ids = ids[np.argsort(-self._logits.take(ids), kind="stable")][:count]
        if len(ids) < min(count, len(self._logits)):  # the rest is masked: all equal
            known = set(ids.tolist())
            others = (token_id for token_id in range(len(self._logits)) if token_id not in known)
            ids = np.array([*ids.tolist(), *islice(others, count - len(ids))], np.int64)
        return ids


def _weigh(
    part: FloatArray, peak: float, temperature: float, room: FloatArray, *, precise: bool
) -> tuple[float, float]:
    """(sum, base): ``sum`` is that of exp((part - base) / temperature), for a base near enough to the part's peak."""
    factor = _EXP_SCALE / temperature
    base = 0.0 if not precise and abs(peak * factor) < _SMALL_EXPONENT else peak
    if base:
        np.subtract(part, base, out=room)
        room *= factor
    else:
        np.multiply(part, factor, out=room)
    if min(room[::_PROBED].tolist()) < _NO_WEIGHT:
        np.maximum(room, _NO_WEIGHT, out=room)
    _EXP(room, out=room)
    if len(room) % _STRIPES == 0:  # element by element, then what little is left: half the time of one long sum
        room = np.add.reduce(room.reshape(_STRIPES, -1), axis=0)
    return float(np.add.reduce(room)), base
