"""What a package's graph moved between its matrices, by which an adapter's matrices must be multiplied as its own were.

Products of integers have their inputs' spread moved into the weights (SmoothQuant), so that a projection reads other
numbers than it was trained on, and makes other ones. One file holds the factors: float32, for each layer and each of
the room's projections those of its inputs and then those of its outputs. A package without moved factors has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from runtime.adapter import Matrix
from runtime.errors import PackageError
from runtime.package.adapter_room import AdapterProjection, AdapterRoom
from runtime.package.manifest import Package

FACTORS_FILE = "adapter_factors.bin"

Factors = Mapping[tuple[int, str], tuple[Matrix, Matrix]]
"""(layer, projection) -> factors of its inputs [in] and of its outputs [out]."""


def places(room: AdapterRoom) -> Iterator[tuple[int, AdapterProjection]]:
    """Every layer's projections in the file's order."""
    return ((layer, projection) for layer in range(room.num_layers) for projection in room.projections)


def write_factors(folder: Path, room: AdapterRoom, factors: Factors) -> None:
    """Write the file of a package that is being built."""
    parts = [part for layer, projection in places(room) for part in factors[layer, projection.name]]
    (folder / FACTORS_FILE).write_bytes(np.concatenate(parts).astype("<f4").tobytes())


def read_factors(package: Package, room: AdapterRoom) -> Factors | None:
    """The factors of a package; None where there are none. Raises PackageError for a file of another size."""
    if FACTORS_FILE not in package.manifest.files:
        return None
    wanted = 4 * sum(projection.inputs + projection.outputs for _, projection in places(room))
    data = package.read_bytes(FACTORS_FILE, max_bytes=wanted)
    if len(data) != wanted:
        raise PackageError(f"{package.manifest.name}: {FACTORS_FILE} has {len(data)} bytes, its room needs {wanted}")
    values, start, found = np.frombuffer(data, "<f4"), 0, {}
    for layer, projection in places(room):
        middle, end = start + projection.inputs, start + projection.inputs + projection.outputs
        found[layer, projection.name] = values[start:middle], values[middle:end]
        start = end
    return found
