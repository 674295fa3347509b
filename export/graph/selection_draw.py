"""The draw of a selection head: which place in the line of the likeliest tokens, and which token stands there.

Every sum is known to within ``TOLERANCE`` only, so what is kept and where the number points to are intervals: a place
is certain where both ends agree. Knows no vocabulary and no edits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from runtime.package import selection_io as io

from export.graph.dialect import Value
from export.graph.selection_values import Values

_SIZE = io.TOP_TOKENS
_HIGH, _LOW = 1.0 + io.TOLERANCE, 1.0 - io.TOLERANCE
_NO_LIMIT = 1e9


@dataclass(frozen=True, slots=True)
class Interval:
    """Two values [B, 1], between which the host's lies."""

    low: Value
    high: Value


class Draw:
    """Emits the draw from ``weights`` [B, 256], descending, of rows that weigh ``total`` [B, 1]."""

    def __init__(self, values: Values, weights: Value, total: Value) -> None:
        self.v, self.weights, self.total = values, weights, total
        ends = values.op("CumSum", weights, values.index(values.number(1.0)))  # [B, K]
        self.ends = Interval(self._times(ends, _LOW), self._times(ends, _HIGH))
        self.is_cut = self.is_seen = self.most = ""

    def place(self) -> tuple[Value, Value]:
        """(place of the drawn token, whether it is certain), each [B, 1]."""
        v = self.v
        mass = self._kept_by_rank()
        top_p = v.column(io.TOP_P)
        has_p = v.op("Less", top_p, v.number(1.0))
        nucleus, last_kept = self._nucleus(Interval(v.op("Mul", top_p, mass.low), v.op("Mul", top_p, mass.high)))
        uniform = v.column(io.UNIFORM)
        low = v.op("Mul", uniform, v.op("Where", has_p, nucleus.low, mass.low))
        high = v.op("Mul", uniform, v.op("Where", has_p, nucleus.high, mass.high))
        first = v.count(v.op("Not", v.op("Greater", self.ends.high, low)))
        last = v.count(v.op("Not", v.op("Greater", self.ends.low, high)))
        beyond = v.number(_NO_LIMIT)
        last = v.op("Min", last, v.op("Where", has_p, last_kept, beyond), v.op("Where", self.is_cut, self.most, beyond))
        agrees = v.op("And", v.op("Equal", first, last), v.op("Less", last, v.number(_SIZE)))
        return last, v.op("And", agrees, v.op("Or", v.op("Not", self.is_cut), self.is_seen))

    def _kept_by_rank(self) -> Interval:
        """The weight of what top_k and min_p keep; all of it where neither is in force."""
        v = self.v
        top_k, min_p = v.real(v.column(io.TOP_K)), v.column(io.MIN_P)
        has_k, none = v.op("Greater", top_k, v.number(0.0)), v.number(0.0)
        limit = v.op("Where", has_k, top_k, v.number(_NO_LIMIT))
        places = v.floats("places", np.arange(_SIZE, dtype=np.float32)[np.newaxis])
        is_within = v.op("Less", places, limit)  # [B, K]
        fewest, most = (self._num_kept(is_within, self._times(min_p, factor)) for factor in (_HIGH, _LOW))
        fewest, one = v.op("Max", fewest, v.number(1.0)), v.number(1.0)
        self.is_cut = v.op("Or", has_k, v.op("Greater", min_p, none))
        fits = v.op("And", has_k, v.op("Less", top_k, v.number(_SIZE + 0.5)))
        self.is_seen = v.op("Or", fits, v.op("Less", most, v.number(_SIZE)))
        self.most = v.op("Sub", most, one)
        low = v.at(self.ends.low, v.op("Sub", fewest, one), _SIZE)
        high = v.at(self.ends.high, self.most, _SIZE)
        return Interval(
            v.op("Where", self.is_cut, low, self._times(self.total, _LOW)),
            v.op("Where", self.is_cut, high, self._times(self.total, _HIGH)),
        )

    def _num_kept(self, is_within: Value, floor: Value) -> Value:
        is_heavy = self.v.op("Not", self.v.op("Less", self.weights, floor))
        return self.v.count(self.v.op("And", is_within, is_heavy))

    def _nucleus(self, share: Interval) -> tuple[Interval, Value]:
        """The weight of the fewest tokens that reach ``share``, and the last place at which they may end.

        Where that lies beyond what is seen, no token there is heavier than the last one seen.
        """
        v = self.v
        first = v.count(v.op("Less", self.ends.high, share.low))
        last = v.count(v.op("Less", self.ends.low, share.high))
        low = v.op("Max", share.low, v.at(self.ends.low, first, _SIZE))
        one_more = v.op("Add", share.high, self._times(v.at(self.weights, first, _SIZE), _HIGH))
        is_reached = v.op("Less", last, v.number(_SIZE))
        reached = v.op("Where", is_reached, v.at(self.ends.high, last, _SIZE), one_more)
        return Interval(low, v.op("Min", one_more, reached)), last

    def _times(self, x: Value, factor: float) -> Value:
        return self.v.op("Mul", x, self.v.number(factor))


def token_at(v: Values, top: Value, ids: Value, place: Value) -> tuple[Value, Value]:
    """(token, whether it is certain) at ``place`` of the line ``top`` [B, 256], whose tokens are ``ids``, float32.

    Equal logits stand by id, whatever order they were found in; the last of them may lie beyond what is seen.
    """
    value = v.at(top, place, _SIZE)
    rank = v.op("Sub", place, v.count(v.op("Greater", top, value)))
    equals = v.op("Where", v.op("Equal", top, value), ids, v.number(_NO_LIMIT))
    by_id, _ = v.sorted(equals, _SIZE, largest=False)
    return v.at(by_id, rank, _SIZE), v.op("Greater", value, v.part(top, _SIZE - 1, _SIZE))
