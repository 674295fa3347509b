"""What flows into each projection of a model: its input channels' largest magnitudes on part of the built-in texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.measure.quality import F32, I64
from export.measure.twin import Twin
from export.progress import Reporter


def measure_input_ranges(twin: Twin, windows: Sequence[I64], reporter: Reporter) -> dict[str, F32]:
    """Projection (``layers.0.qkv``...) -> float32 [K], the largest magnitude of each of its inputs over ``windows``."""
    ranges: dict[str, F32] = {}
    with reporter.stage("Measuring the inputs' ranges", len(windows)) as advance:
        for name, rows in twin.projection_inputs(windows):
            largest = np.abs(rows).max(axis=0)
            ranges[name] = np.maximum(ranges.get(name, largest), largest)
        advance(len(windows))
    return ranges
