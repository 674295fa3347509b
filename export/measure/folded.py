"""A smoothed checkpoint that tells what was folded into its matrices, for adapters that change them at run time.

Apart from ``smoothing``, whose code decides which choice a recipe may pin. Measures nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtime.adapters.factors import places, write_factors
from runtime.package.adapter_room import AdapterProjection, AdapterRoom

from export.checkpoint.lazy_tensor import F32
from export.measure.smoothing import SmoothedCheckpoint


class FoldedCheckpoint(SmoothedCheckpoint):
    """A SmoothedCheckpoint that can write the file of ``runtime.adapters.factors``."""

    def write_factors(self, folder: Path, room: AdapterRoom) -> None:
        """Write the file of a package with ``room``, if anything was folded in."""
        if self._columns:
            found = {(layer, projection.name): self._factors(layer, projection) for layer, projection in places(room)}
            write_factors(folder, room, found)

    def _factors(self, layer: int, projection: AdapterProjection) -> tuple[F32, F32]:
        columns = self._columns.get(f"layers.{layer}.{projection.parts[0].role}")
        rows = np.ones(projection.outputs, np.float32)  # what no adapter may change needs no factor
        for part in projection.parts:
            own = self._rows.get(f"layers.{layer}.{part.role}")
            if own is not None:
                rows[part.start : part.start + part.outputs] = own
        return np.ones(projection.inputs, np.float32) if columns is None else columns, rows
