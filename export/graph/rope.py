"""Tables of rotary position embedding. The one place that computes frequencies; dialects and reference share it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import F32
from export.checkpoint.spec import RopeScaling, RopeSpec

F64 = npt.NDArray[np.float64]


def rope_tables(rope: RopeSpec, num_positions: int) -> tuple[F32, F32]:
    """Cosine and sine, float32 [num_positions, dim / 2]: angle[p, j] = p * frequency[j].

    Computed in float64 and rounded once, so that far positions keep their angle.
    """
    angles = np.outer(np.arange(num_positions, dtype=np.float64), _frequencies(rope, num_positions))
    factor = rope.scaling.attention_factor if rope.scaling else 1.0
    return (np.cos(angles) * factor).astype(np.float32), (np.sin(angles) * factor).astype(np.float32)


def _frequencies(rope: RopeSpec, num_positions: int) -> F64:
    """Angle per position, float64 [dim / 2]: theta ** (-2j / dim), then stretched."""
    base: F64 = rope.theta ** (-np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim)
    scaling = rope.scaling
    if scaling is None:
        return base
    match scaling.kind:
        case "linear":
            return base / scaling.factor
        case "factors":
            return base / np.asarray(scaling.factors, np.float64)
        case "longrope":
            is_long = num_positions > scaling.original_max_positions
            return base / np.asarray(scaling.long_factors if is_long else scaling.factors, np.float64)
        case "llama3":
            return _llama3(base, scaling)
        case "yarn":
            return _yarn(base, rope, scaling)


def _llama3(base: F64, scaling: RopeScaling) -> F64:
    """Long wavelengths are divided by ``factor``, short ones kept, those between interpolated."""
    turns = scaling.original_max_positions * base / (2 * math.pi)  # turns within the trained context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    stretched: F64 = (1 - smooth) * base / scaling.factor + smooth * base
    return stretched


def _yarn(base: F64, rope: RopeSpec, scaling: RopeScaling) -> F64:
    """NTK-by-parts: a linear ramp over dimensions between ``beta_fast`` and ``beta_slow`` turns."""

    def dimension(turns: float) -> float:
        return rope.dim * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    ramp = np.clip((np.arange(rope.dim // 2) - low) / (max(high - low, 0.001)), 0.0, 1.0)
    stretched: F64 = base / scaling.factor * ramp + base * (1 - ramp)
    return stretched
