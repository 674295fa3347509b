"""Measures the scales of an int8 KV cache: each channel's largest magnitude on the built-in texts.

Knows graphs through ``runtime.package.graph_io``; emits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from runtime.package.manifest import ModelShape

from export.graph.kv_scales import KvScales
from export.measure.quality import I64, GraphRunner
from export.progress import Reporter

CALIBRATION_WINDOWS = 4
_TOP_CODE = 127
_SMALLEST_MAGNITUDE = 1e-6


def measure_kv_scales(
    reference: GraphRunner, windows: Iterable[I64], shape: ModelShape, reporter: Reporter
) -> KvScales:
    """Run the float32 graph over ``windows`` and take each channel's largest magnitude for code 127."""
    tops = np.zeros((shape.num_layers, 2, shape.num_kv_heads, shape.head_dim), np.float32)
    chosen = list(windows)
    with reporter.stage("Measuring the cache's range", len(chosen)) as advance:
        for window in chosen:
            for layer, pair in enumerate(reference.cache(window)):
                for kind, rows in enumerate(pair):  # [H, T, D]
                    np.maximum(tops[layer, kind], np.abs(rows).max(axis=1), out=tops[layer, kind])
            advance(1)
    scales = np.maximum(tops, _SMALLEST_MAGNITUDE).reshape(shape.num_layers, 2, -1) / np.float32(_TOP_CODE)
    return KvScales(tuple((layer[0], layer[1]) for layer in scales))
