"""Picks the rows that want logits, in standard operators that every dialect's runtime has. Knows no decoder."""

from __future__ import annotations

import numpy as np
from runtime.package import graph_io

from export.graph.dialect import Value
from export.graph.writer import GraphWriter


def logits_rows(writer: GraphWriter, name: str, x: Value, width: int) -> Value:
    """Rows of ``x`` [B, T, width], flattened to [B * T, width], by ``logits_indices``: [N, width]."""
    shape = writer.constant(f"rows_of_{width}", np.array([-1, width], np.int64))
    flat = writer.node("Reshape", [x, shape], name + ".flat")
    return writer.node("Gather", [flat, graph_io.LOGITS_INDICES], name, axis=0)
