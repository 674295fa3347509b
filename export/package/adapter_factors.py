"""Writes what smoothing moved between the matrices of a package with room for adapters. Measures nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtime.adapters.factors import places, write_factors
from runtime.package.adapter_room import AdapterRoom

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.lazy_tensor import F32
from export.checkpoint.spec import weight_shapes
from export.measure.smoothing import PARTS, SmoothedCheckpoint


def write_adapter_factors(folder: Path, room: AdapterRoom, checkpoint: Checkpoint) -> None:
    """The file of ``runtime.adapters.factors``, if anything was folded into the checkpoint of the graph."""
    if isinstance(checkpoint, SmoothedCheckpoint) and checkpoint.is_changed:
        factors = {
            (layer, projection.name): _factors(checkpoint, layer, projection.name) for layer, projection in places(room)
        }
        write_factors(folder, room, factors)


def _factors(checkpoint: SmoothedCheckpoint, layer: int, projection: str) -> tuple[F32, F32]:
    shapes = weight_shapes(checkpoint.spec)
    names = [f"layers.{layer}.{role}" for role in PARTS[projection]]
    columns = checkpoint.column_factors(names[0])
    rows = [checkpoint.row_factors(name) for name in names]
    filled = [
        np.ones(shapes[name][0], np.float32) if row is None else row for name, row in zip(names, rows, strict=True)
    ]
    return np.ones(shapes[names[0]][1], np.float32) if columns is None else columns, np.concatenate(filled)
