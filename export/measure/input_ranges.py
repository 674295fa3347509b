"""What flows into each projection of a model: its input channels' largest magnitudes on part of the built-in texts.

Measured on the float32 graph, which is instrumented beside itself. Knows graphs through ``runtime.package.graph_io``
and the ``ort`` dialect's way to name a matrix; emits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from runtime.package.manifest import ModelShape

from export.measure.quality import F32, I64, GraphRunner
from export.progress import Reporter

_INSTRUMENTED_FILE = "instrumented.onnx"
_WEIGHT_SUFFIX = ".weight"


def measure_input_ranges(
    reference: Path, windows: Sequence[I64], shape: ModelShape, reporter: Reporter
) -> dict[str, F32]:
    """Projection (``layers.0.qkv``...) -> float32 [K], the largest magnitude of each of its inputs over ``windows``."""
    model = onnx.load(str(reference), load_external_data=False)
    inputs = {
        node.input[1].removesuffix(_WEIGHT_SUFFIX): node.input[0]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1].endswith(_WEIGHT_SUFFIX)
    }
    values = sorted(set(inputs.values()))
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values)
    instrumented = reference.with_name(_INSTRUMENTED_FILE)  # beside the weights that it refers to
    instrumented.write_bytes(model.SerializeToString())
    runner = GraphRunner(instrumented, shape)
    ranges: dict[str, F32] = {}
    with reporter.stage("Measuring the inputs' ranges", len(windows)) as advance:
        for window in windows:
            for name, rows in zip(values, runner.values(values, window), strict=True):  # [1, T, K] or [T, K]
                largest = np.abs(rows.reshape(-1, rows.shape[-1])).max(axis=0)
                ranges[name] = np.maximum(ranges.get(name, largest), largest)
            advance(1)
    return {name: ranges[value] for name, value in inputs.items()}
