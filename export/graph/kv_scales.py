"""Scales of an int8 KV cache, as constants of a graph: one per layer, kind and channel. Values only.

Being constants, a row's codes depend on that row alone, and results stay the same in any batch and chunking. Where
the numbers come from is ``export.measure.kv_scales``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KvScales:
    """``scales[layer][kind]`` float32 [H * D], kind 0 keys (after rope) and 1 values: value = code * scale."""

    scales: tuple[tuple[F32, F32], ...]

    def with_values_times(self, factors: Sequence[F32 | None]) -> KvScales:
        """The scales of a cache whose values are multiplied by ``factors[layer]``, float32 [H * D] or None."""
        pairs = zip(self.scales, factors, strict=True)
        return KvScales(tuple((key, value if factor is None else value * factor) for (key, value), factor in pairs))
