"""The rules about precision: what may be asked for, and what follows from a choice."""

from __future__ import annotations

import pytest

from export.checkpoint.precision import EXACT, PRECISE, PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import (
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
    ],
)
def test_what_each_name_means(name: str, block: int | None, plan: PrecisionPlan) -> None:
    assert plan_from_name(name, block) == plan


@pytest.mark.parametrize(
    ("precision", "block", "has_limit", "words"),
    [
        ("int7", None, True, "choose one of fp32, fp16, bf16, int8, int4, auto, w8a8"),
        ("int8", 48, True, "block 48 is not possible; choose one of 128, 64, 32, 16"),
        ("auto", 48, True, "block 48 is not possible"),
        ("auto", None, False, "'auto' needs a budget; give --max-kl"),
        ("w8a8", None, False, "'w8a8' needs a budget"),
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
    plans = (EXACT, plan_from_name("fp16"), plan_from_name("bf16"), plan_from_name("int4"), MIXED)
    assert [ort_providers(plan) for plan in plans] == [
        ("cpu", "cuda"), ("cpu", "cuda"), ("cuda",), ("cpu", "cuda"), ("cpu",)]  # fmt: skip


def test_tensorrt_gets_half_precision_around_integers_and_no_products_of_integers() -> None:
    assert trt_plan(MIXED) == PrecisionPlan(EIGHT, "float16", {"layers.0.down": FOUR})
    assert trt_plan(EXACT) == EXACT


def test_a_report_is_for_what_differs_from_float32_and_runs_on_a_cpu() -> None:
    eight, bfloat = plan_from_name("int8"), plan_from_name("bf16")
    assert is_reported(eight, has_limit=True, int8_cache=False)
    assert is_reported(EXACT, has_limit=True, int8_cache=True)
    assert not is_reported(EXACT, has_limit=True, int8_cache=False)
    assert not is_reported(bfloat, has_limit=True, int8_cache=True)
    assert not is_reported(eight, has_limit=False, int8_cache=True)
    assert needs_float32_first("int8", int8_cache=True)
    assert needs_float32_first("auto", int8_cache=False)
    assert not needs_float32_first("int8", int8_cache=False)
