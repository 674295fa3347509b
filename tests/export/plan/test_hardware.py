"""Which GPUs lack a form that weights are stored in, and what they are told."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from export.plan.hardware import check_hardware
from export.plan.library import load_library
from export.plan.targets import Target
from runtime.errors import PlanError

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")


@pytest.mark.parametrize(
    ("forms", "sm", "words"),
    [
        (["fp8 per channel"], "sm86", r"sm86 has no fp8 arithmetic.* 8\.9 or newer \(sm89, sm120, sm121\)"),
        (
            ["fp8 per channel, nvfp4 block 16"],
            "sm89",
            r"sm89 has no nvfp4 arithmetic.* 10\.0 or newer \(sm120, sm121\)",
        ),
        (["fp8 per channel", "nvfp4 block 16"], "sm80", "sm80 has no nvfp4 arithmetic"),
        (["fp8 per channel"], "sm89", ""),
        (["nvfp4 block 16"], "sm120", ""),
        (["int8 block 64", "float16"], "sm75", ""),
    ],
)
def test_gpus_without_a_form_of_weights_are_refused_by_name(forms: list[str], sm: str, words: str) -> None:
    target = Target(sm, sm, load_library("tensorrt_rtx"))
    with pytest.raises(PlanError, match=words) if words else nullcontext():
        check_hardware(forms, target)
