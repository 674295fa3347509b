"""Fixes the symbolic length of a ``trt`` graph's cache slots, which TensorRT does not take. Knows no TensorRT."""

from __future__ import annotations

from pathlib import Path

import onnx
from runtime.package import graph_io


def with_slot_rows(path: Path, rows: int) -> bytes:
    """The graph in ``path``, serialized, with slots of ``rows``; its weights stay in the file beside it."""
    model = onnx.load(str(path), load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == graph_io.CAPACITY:
                dim.dim_value = rows
    serialized: bytes = model.SerializeToString()
    return serialized
