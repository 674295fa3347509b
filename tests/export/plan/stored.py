"""Plans of a tiny package as tests of their store want them, and the library and the GPU that run them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from export.plan.library import load_library
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings
from export.plan.store import StoredPlan, ensure_plan
from export.plan.targets import Target
from runtime.loading.plan_choice import RunningLibrary

SETTINGS = PlanSettings(max_slots=4, prefill_tokens=32)


def build(root: Path, sm: str = "sm89", settings: PlanSettings = SETTINGS) -> StoredPlan:
    """See that the package at ``root`` holds a plan."""
    target = Target(sm, sm, load_library("tensorrt_rtx"))
    return ensure_plan(root, target, settings, lambda _title: nullcontext[OnFraction](lambda _fraction: None))


def running() -> RunningLibrary:
    """The library that is installed, as if a GPU ran it."""
    return RunningLibrary("tensorrt_rtx", load_library("tensorrt_rtx").version)
