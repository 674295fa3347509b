"""Room for adapters in the ``ort`` graph: two inputs per projection, and the nodes that add their product.

Every row multiplies by matrices of its own, so its result does not depend on its batch: ONNX Runtime computes a batch
of matrices one by one. Knows no weights and no adapter.
"""

from __future__ import annotations

import numpy as np
from runtime.package import graph_io
from runtime.package.adapter_room import COLUMNS, AdapterRoom

from export.graph.dialect import Value
from export.graph.writer import GraphWriter

_ROW_OF_LOGITS = "lora.row_of_logits"


class LowRankInputs:
    """Declares the inputs, and emits what they add to a projection."""

    def __init__(self, writer: GraphWriter, room: AdapterRoom) -> None:
        self._writer = writer
        self._knows_rows = False
        self._projections = {projection.name: projection for projection in room.projections}
        for layer in range(room.num_layers):
            for projection in room.projections:
                a, b = graph_io.adapter_names(layer, projection.name)
                writer.input(a, np.float32, ("batch", a + ".blocks", projection.inputs, COLUMNS))
                writer.input(b, np.float32, ("batch", a + ".blocks", COLUMNS, projection.outputs))

    def add(self, name: str, x: Value, product: Value, *, selected: bool) -> Value:
        """``product`` of the projection ``layers.{i}.{P}`` plus its adapter's, named ``name``; ``x`` is its input.

        Both are [B, T, width], or [N, width] with ``selected``. The projection is one that ``takes`` adapters.
        """
        writer, (_, layer, projection) = self._writer, name.split(".")
        a, b = graph_io.adapter_names(int(layer), projection)
        stem = f"{name}.lora"
        one, two = self._ints("lora.axis_1", 1), self._ints("lora.axes_1_2", 1, 2)
        if selected:  # each row is a batch of its own, with the matrices of the row that it was selected from
            rows = self._rows_of_logits()
            a = writer.node("Gather", [a, rows], stem + ".a", axis=0)
            b = writer.node("Gather", [b, rows], stem + ".b", axis=0)
        wide = writer.node("Unsqueeze", [x, two if selected else one], stem + ".x")  # [B, 1, T, in]
        inner = writer.node("MatMul", [wide, a], stem + ".inner")  # [B, K, T, 16]
        by_block = writer.node("MatMul", [inner, b], stem + ".by_block")  # [B, K, T, out]
        # Over no blocks the sum is zeros. Selected rows have one token each, and that axis goes as well.
        change = writer.node("ReduceSum", [by_block, two if selected else one], stem + ".change", keepdims=0)
        return writer.node("Add", [product, change], name)

    def takes(self, name: str) -> bool:
        """Whether the projection ``layers.{i}.{P}`` takes adapters."""
        return name.rpartition(".")[2] in self._projections

    def _rows_of_logits(self) -> Value:
        """The row of the call that each row of logits belongs to, int64 [N]."""
        writer = self._writer
        if not self._knows_rows:
            self._knows_rows = True
            tokens = writer.node("Shape", [graph_io.INPUT_IDS], "lora.tokens_per_row", start=1, end=2)
            writer.node("Div", [graph_io.LOGITS_INDICES, tokens], _ROW_OF_LOGITS)
        return _ROW_OF_LOGITS

    def _ints(self, name: str, *values: int) -> Value:
        return self._writer.constant(name, np.array(values, np.int64))
