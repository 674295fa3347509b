"""Runs a graph with room for adapters as it is without one, for the quality report. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runtime.package import graph_io
from runtime.package.manifest import ModelShape

from export.measure.quality import F32, I64
from export.measure.sessions import BulkRunner


def unadapted_logits(graph: Path, shape: ModelShape, windows: Sequence[I64]) -> Iterator[F32]:
    """Logits float32 [T, V] of every token of each window int64 [T], in order."""
    runner = _UnadaptedRunner(graph, shape)
    return (runner.logits(window) for window in windows)


class _UnadaptedRunner(BulkRunner):
    """A GraphRunner that feeds matrices of no columns."""

    def _feeds(self, window: I64) -> dict[str, Any]:
        nothing = {
            value.name: np.zeros((1, 0, *value.shape[2:]), np.float32)
            for value in self._session.get_inputs()
            if value.name.startswith(graph_io.ADAPTER_PREFIX)
        }
        return super()._feeds(window) | nothing
