"""How far the weights of two graphs lie apart. Knows no graph but by its weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from export.compare.difference import WeightDifference
from export.compare.stored_weights import StoredWeight, stored_weights


def weight_differences(graph: str, a: Path, b: Path) -> tuple[list[WeightDifference], int]:
    """The weights whose values differ between two graphs of one dialect, and how many do not. Raises ExportError."""
    ours, theirs = stored_weights(a), stored_weights(b)
    found, equal = [], 0
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        distance = None if one is None or other is None or one.shape != other.shape else _distance(one, other)
        if distance == (0.0, 0.0):
            equal += 1
        else:
            relative, largest = distance or (None, None)
            found.append(WeightDifference(graph, name, _form(one), _form(other), relative, largest))
    return found, equal


def _form(weight: StoredWeight | None) -> str:
    return "" if weight is None else f"{weight.form} {list(weight.shape)}"


def _distance(one: StoredWeight, other: StoredWeight) -> tuple[float, float]:
    """Frobenius norm of the difference over that of ``one``, and the largest absolute difference."""
    squares, total, largest = 0.0, 0.0, 0.0
    for band, against in zip(one.bands(), other.bands(), strict=True):
        apart = band - against
        squares += float(np.vdot(apart, apart))
        total += float(np.vdot(band, band))
        largest = max(largest, float(np.abs(apart).max(initial=0.0)))
    return (math.sqrt(squares / total) if total else math.inf if squares else 0.0), largest
