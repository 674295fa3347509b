"""Scales of an int8 KV cache: one per layer, kind and channel, from the largest magnitudes on the built-in texts.

The scales are constants of the graph, so a row's codes depend on that row alone and results stay the same in any
batch and chunking. Knows graphs through ``runtime.graph_io``; emits nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from runtime.manifest import ModelShape

from export.progress import Reporter
from export.quality import GraphRunner

CALIBRATION_WINDOWS = 4
_TOP_CODE = 127
_SMALLEST_MAGNITUDE = 1e-6

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class KvScales:
    """``scales[layer][kind]`` float32 [H * D], kind 0 keys (after rope) and 1 values: value = code * scale."""

    scales: tuple[tuple[F32, F32], ...]

    def with_values_times(self, factors: Sequence[F32 | None]) -> KvScales:
        """The scales of a cache whose values are multiplied by ``factors[layer]``, float32 [H * D] or None."""
        pairs = zip(self.scales, factors, strict=True)
        return KvScales(tuple((key, value if factor is None else value * factor) for (key, value), factor in pairs))


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
