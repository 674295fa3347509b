"""How an engine is to be built, and the shapes that follow. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime import graph_io
from runtime.engine_sidecar import EngineError

Compatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

MAX_LOGITS = 16
"""Rows of logits that one prefill call can give: a prompt needs one, checking a drafted continuation a few more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """``max_slots`` sequences decode together, ``prefill_tokens`` of a prompt are computed per call.

    ``optimization_level`` 0 to 5 trades build time for speed. ``workspace_bytes`` bounds the scratch memory of any
    kernel on the GPU, 0 for no bound. The last two concern the classic library only: ``hardware_compatibility``
    makes an engine that runs on other GPUs too, ``timing_cache`` is a file that makes the next build faster.
    """

    max_slots: int = 16
    prefill_tokens: int = 512
    optimization_level: int = 3
    workspace_bytes: int = 0
    hardware_compatibility: Compatibility = "none"
    timing_cache: Path | None = None

    @property
    def max_logits(self) -> int:
        """Rows of logits of a prefill call."""
        return min(MAX_LOGITS, self.prefill_tokens)


def check_settings(settings: EngineSettings, capacity: int) -> None:
    """Raise EngineError unless the settings are possible for a cache of ``capacity`` tokens."""
    for name, value, high in (
        ("--max-slots", settings.max_slots, 1024),
        ("--prefill-tokens", settings.prefill_tokens, capacity),
    ):
        if not 1 <= value <= high:
            raise EngineError(f"{name} {value} is not possible for this graph; choose 1 to {high}")


def profile_shapes(settings: EngineSettings, cache_shapes: dict[str, tuple[int, int, int]]) -> list[Shapes]:
    """Smallest, best and largest shape of every input, for decode and for prefill, in that order.

    ``cache_shapes`` maps each cache input to (heads, capacity, head_dim). Kernels are tuned for the best shape: half
    the slots decoding, a full chunk of prompt.
    """
    slots, tokens = settings.max_slots, settings.prefill_tokens
    decode = ((1, 1, 1), (max(1, slots // 2), 1, max(1, slots // 2)), (slots, 1, slots))
    prefill = ((1, 1, 1), (1, tokens, 1), (1, tokens, settings.max_logits))
    profiles = []
    for low, best, high in (decode, prefill):
        shapes: Shapes = {
            graph_io.INPUT_IDS: (low[:2], best[:2], high[:2]),
            graph_io.WRITE_INDICES: (low[:1], best[:1], high[:1]),
            graph_io.LOGITS_INDICES: (low[2:], best[2:], high[2:]),
        }
        for name, shape in cache_shapes.items():
            shapes[name] = ((low[0], *shape), (best[0], *shape), (high[0], *shape))
        profiles.append(shapes)
    return profiles
