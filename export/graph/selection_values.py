"""Short words for the nodes of a selection head: numbered values, constants, counts along a row. Knows no rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from export.graph.dialect import Value
from export.graph.writer import Attribute, GraphWriter

_FLOAT32, _INT64 = 1, 7


class Values:
    """Makes values named ``prefix.number`` in a graph. Values of one number per row are float32 [B, 1]."""

    def __init__(self, writer: GraphWriter, prefix: str) -> None:
        self._writer = writer
        self._prefix = prefix
        self._num_made = 0

    def op(self, kind: str, *inputs: Value, out: str = "", **attributes: Attribute) -> Value:
        """A node's only output, named ``out`` where the graph's own output is meant."""
        return self._writer.node(kind, list(inputs), out or self._name(), "", **dict[str, Any](attributes))

    def number(self, value: float) -> Value:
        """A float32 constant [], one per value."""
        return self._writer.constant(f"{self._prefix}.number.{value!r}", np.array(value, np.float32))

    def floats(self, name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Value:
        """A float32 constant of any shape."""
        return self._writer.constant(f"{self._prefix}.{name}", values)

    def ints(self, *values: int) -> Value:
        """An int64 constant [N], as axes, shapes and the like are given."""
        name = ".".join(str(value) for value in values)
        return self._writer.constant(f"{self._prefix}.ints.{name}", np.array(values, np.int64))

    def column(self, name: Value) -> Value:
        """[B] -> [B, 1]."""
        return self.op("Unsqueeze", name, self.ints(1))

    def real(self, x: Value) -> Value:
        """``x`` as float32."""
        return self.op("Cast", x, to=_FLOAT32)

    def index(self, x: Value) -> Value:
        """``x`` as int64."""
        return self.op("Cast", x, to=_INT64)

    def part(self, x: Value, start: int, stop: int) -> Value:
        """Columns ``start`` to ``stop`` of ``x`` [B, N]."""
        return self.op("Slice", x, self.ints(start), self.ints(stop), self.ints(1))

    def sorted(self, x: Value, count: int, *, largest: bool = True) -> tuple[Value, Value]:
        """The ``count`` largest of each row of ``x`` [B, N], or smallest, in order; their places, int64."""
        names = [self._name(), self._name()]
        self._writer.node("TopK", [x, self.ints(count)], names, axis=1, largest=int(largest), sorted=1)
        return names[0], names[1]

    def at(self, x: Value, place: Value, size: int) -> Value:
        """The element [B, 1] of each row of ``x`` [B, size] at ``place`` [B, 1]; the last one for a place beyond."""
        clamped = self.op("Min", place, self.number(size - 1))
        return self.op("GatherElements", x, self.index(clamped), axis=1)

    def count(self, condition: Value) -> Value:
        """How many of each row of ``condition`` [B, N] are true [B, 1]."""
        return self.op("ReduceSum", self.real(condition), self.ints(1), keepdims=1)

    def _name(self) -> str:
        self._num_made += 1
        return f"{self._prefix}.{self._num_made}"
