"""How a plan is to be built. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import PlanError
from runtime.package.attention_form import DEFAULT_ATTENTION, AttentionForm

Compatibility = Literal["none", "ampere_plus", "same_compute_capability"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """``max_slots`` sequences decode together, ``prefill_tokens`` of a prompt are computed per call.

    ``max_model_len`` tokens fit a cache slot, None for as many as the package was exported for.

    ``optimization_level`` 0 to 5 trades build time for speed. ``workspace_bytes`` bounds the scratch memory of any
    kernel on the GPU, 0 for no bound. ``attention`` is how it knows what a token may see. The last two concern the
    classic library only: ``hardware_compatibility`` makes a plan that runs on other GPUs too, ``timing_cache`` is a
    file that makes the next build faster.
    """

    max_slots: int = DEFAULT_SLOTS
    max_model_len: int | None = None
    prefill_tokens: int = 512
    optimization_level: int = 3
    workspace_bytes: int = 0
    attention: AttentionForm = DEFAULT_ATTENTION
    hardware_compatibility: Compatibility = "none"
    timing_cache: Path | None = None


def check_settings(settings: PlanSettings, capacity: int) -> None:
    """Raise PlanError unless the settings are possible for a cache of ``capacity`` tokens."""
    for name, value, high in (
        ("--max-slots", settings.max_slots, 1024),
        ("--prefill-tokens", settings.prefill_tokens, capacity),
    ):
        if not 1 <= value <= high:
            raise PlanError(f"{name} {value} is not possible for this graph; choose 1 to {high}")
