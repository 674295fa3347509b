"""Measures the scales of an int8 KV cache: each channel's largest magnitude on part of the built-in texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from runtime.package.manifest import ModelShape

from export.graph.kv_scales import KvScales
from export.measure.quality import I64
from export.measure.twin import Twin
from export.progress import Reporter

_TOP_CODE = 127
_SMALLEST_MAGNITUDE = 1e-6


def measure_kv_scales(twin: Twin, windows: Sequence[I64], shape: ModelShape, reporter: Reporter) -> KvScales:
    """Run the float32 twin over ``windows`` and take each channel's largest magnitude for code 127."""
    tops = np.zeros((shape.num_layers, 2, shape.num_kv_heads, shape.head_dim), np.float32)
    with reporter.stage("Measuring the cache's range", shape.num_layers * len(windows)) as advance:
        for layer, *pair in twin.caches(windows):
            for kind, rows in enumerate(pair):  # [H, T, D]
                np.maximum(tops[layer, kind], np.abs(rows).max(axis=1), out=tops[layer, kind])
            advance(1)
    scales = np.maximum(tops, _SMALLEST_MAGNITUDE).reshape(shape.num_layers, 2, -1) / np.float32(_TOP_CODE)
    return KvScales(tuple((layer[0], layer[1]) for layer in scales))
