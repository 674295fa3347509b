"""The rules about precision: what may be asked for, and what follows from a choice."""

from __future__ import annotations

import contextlib
from functools import partial

import pytest

from export.checkpoint.precision import EXACT, FP8, NVFP4, PRECISE, PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import (
    check_dialects,
    check_precision,
    is_reported,
    kept_formats,
    needs_float32_first,
    ort_providers,
    plan_from_name,
    plan_keeping,
    trt_plan,
)
from export.errors import ExportError, UnsupportedError
from tests.export.random_checkpoint import ARCHITECTURES

EIGHT, FOUR, INTEGERS = WeightFormat(8, 64), WeightFormat(4, 32), WeightFormat(8, 0, 0.5)
MIXED = PrecisionPlan(EIGHT, overrides={"layers.0.qkv": INTEGERS, "layers.0.down": FOUR})


@pytest.mark.parametrize(
    ("name", "block", "plan"),
    [
        ("fp32", None, EXACT),
        ("fp16", None, PrecisionPlan(PRECISE, "float16")),
        ("bf16", None, PrecisionPlan(PRECISE, "bfloat16")),
        ("int8", None, PrecisionPlan(EIGHT)),
        ("int8", 128, PrecisionPlan(WeightFormat(8, 128))),
        ("int4", None, PrecisionPlan(FOUR, overrides={"embedding": EIGHT, "head": EIGHT})),
        ("auto", None, PrecisionPlan(EIGHT)),
        ("w8a8", 32, PrecisionPlan(WeightFormat(8, 32))),
        ("fp8", None, PrecisionPlan(FP8, "float16")),
        ("nvfp4", 16, PrecisionPlan(NVFP4, "float16", {"embedding": FP8, "head": FP8})),
    ],
)
def test_what_each_name_means(name: str, block: int | None, plan: PrecisionPlan) -> None:
    assert plan_from_name(name, block) == plan


@pytest.mark.parametrize(
    ("precision", "block", "has_limit", "words"),
    [
        ("int7", None, True, "choose one of fp32, fp16, bf16, int8, int4, fp8, nvfp4, auto, w8a8"),
        ("int8", 48, True, "block 48 is not possible; choose one of 128, 64, 32, 16"),
        ("auto", 48, True, "block 48 is not possible"),
        ("auto", None, False, "'auto' needs a budget; give --max-kl"),
        ("w8a8", None, False, "'w8a8' needs a budget"),
        (
            "fp8",
            64,
            True,
            "block 64 is not possible; fp8 has one scale per output and no blocks, so leave",
        ),
        ("nvfp4", 32, True, "block 32 is not possible; nvfp4 has block 16"),
    ],
)
def test_what_may_not_be_asked_for(precision: str, block: int | None, has_limit: bool, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        check_precision(precision, block, has_limit=has_limit)


def test_a_quantized_checkpoint_keeps_its_forms_and_leaves_nothing_to_choose() -> None:
    llama, granite = ARCHITECTURES["llama"], ARCHITECTURES["granite"]
    kept = kept_formats({"layers.0.qkv": [FOUR, FOUR], "head": [PRECISE]}, llama)
    assert kept == {"layers.0.qkv": FOUR}
    assert plan_keeping("int8", None, kept).overrides == kept
    with pytest.raises(ExportError, match="'auto' has nothing to choose"):
        plan_keeping("auto", None, kept)
    with pytest.raises(UnsupportedError, match=r"layers.0.qkv: .*\(float32 and int4 block 32\), one is needed"):
        kept_formats({"layers.0.qkv": [FOUR, PRECISE]}, llama)
    with pytest.raises(UnsupportedError, match=r"multiplier 0\.22 of 'llama' cannot be folded"):
        kept_formats({"layers.0.o": [FOUR]}, granite)
    assert kept_formats({"layers.0.o": [PRECISE]}, granite) == {}


def test_who_runs_a_plan() -> None:
    plans = [plan_from_name(name) for name in ("fp32", "fp16", "bf16", "int4", "fp8", "nvfp4")]
    assert [ort_providers(plan) for plan in (*plans, MIXED)] == [
        ("cpu", "cuda"), ("cpu", "cuda"), ("cuda",), ("cpu", "cuda"), (), (), ("cpu",)]  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "dialects", "int8_cache", "words"),
    [
        ("fp8", ("ort",), False, r"'fp8' is for TensorRT alone.*choose --dialect trt \(dialects = \[\"trt\"\]"),
        ("nvfp4", ("ort", "trt"), False, "'nvfp4' is for TensorRT alone"),
        ("w8a8", ("trt",), False, "'w8a8' is chosen with the 'ort' graph"),
        ("fp8", ("trt",), True, "an int8 cache is for the 'ort' graph alone"),
        ("fp8", ("trt",), False, ""),
        ("int8", ("trt",), False, ""),
        ("auto", ("ort", "trt"), True, ""),
    ],
)
def test_graphs_can_hold_what_is_asked_for(
    precision: str, dialects: tuple[str, ...], int8_cache: bool, words: str
) -> None:
    with pytest.raises(ExportError, match=words) if words else contextlib.nullcontext():
        check_dialects(precision, dialects, int8_cache=int8_cache)


def test_codes_of_floating_point_take_the_bytes_that_they_need() -> None:
    """fp8: a byte each and a half-precision scale per row. nvfp4: half a byte, a byte per 16, and a float32."""
    assert (FP8.num_bytes((32, 64), 2), NVFP4.num_bytes((32, 64), 2)) == (2048 + 64, 1024 + 128 + 4)
    assert (FP8.fitted(50), NVFP4.fitted(48), NVFP4.fitted(50)) == (FP8, NVFP4, PRECISE)
    assert (FP8.label("float16"), NVFP4.label("float16")) == ("fp8 per channel", "nvfp4 block 16")


def test_tensorrt_gets_half_precision_around_integers_and_no_products_of_integers() -> None:
    assert trt_plan(MIXED) == PrecisionPlan(EIGHT, "float16", {"layers.0.down": FOUR})
    assert trt_plan(EXACT) == EXACT


def test_a_report_is_for_what_differs_from_float32_and_runs_on_a_cpu() -> None:
    eight, bfloat = plan_from_name("int8"), plan_from_name("bf16")
    report = partial(is_reported, emulated=False)
    assert report(eight, has_limit=True, int8_cache=False)
    assert report(EXACT, has_limit=True, int8_cache=True)
    assert not report(EXACT, has_limit=True, int8_cache=False)
    assert not report(bfloat, has_limit=True, int8_cache=True)
    assert not report(eight, has_limit=False, int8_cache=True)
    assert is_reported(bfloat, has_limit=True, int8_cache=False, emulated=True)
    assert not is_reported(bfloat, has_limit=False, int8_cache=False, emulated=True)
    assert needs_float32_first("int8", int8_cache=True)
    assert needs_float32_first("auto", int8_cache=False)
    assert not needs_float32_first("int8", int8_cache=False)
