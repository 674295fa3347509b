"""Every rule about precision: what each name means, what may be asked for, and what follows from a choice.

Pure functions on values. What a format is, precision says; who measures, reads or writes asks here and decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from export.checkpoint.precision import (
    EXACT,
    FP8,
    INT_BLOCKS,
    NVFP4,
    PRECISE,
    FloatType,
    PrecisionPlan,
    WeightFormat,
)
from export.checkpoint.spec import DecoderSpec
from export.errors import ExportError, UnsupportedError

_FLOAT_NAMES: dict[str, FloatType] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DEFAULT_BLOCK = {8: 64, 4: 32}
_AUTO, _W8A8 = "auto", "w8a8"

FOR_TENSORRT = {"fp8": FP8, "nvfp4": NVFP4}
"""Precisions whose packages hold the ``trt`` graph alone: ONNX Runtime has no kernels for them."""

NAMED = (*_FLOAT_NAMES, "int8", "int4", *FOR_TENSORRT)
"""Precisions that say by themselves how every matrix is stored."""

MEASURED = (_AUTO, _W8A8)
"""Precisions that are chosen projection by projection, by measurement, starting from 8-bit blocks."""

PROJECTIONS = ("qkv", "o", "gate_up", "down")
"""What a plan calls the matrices of a layer."""


def check_precision(precision: str, block: int | None, *, has_limit: bool) -> None:
    """Raise ExportError for a name or block that does not exist, and for a measured precision without a limit."""
    if precision not in {*NAMED, *MEASURED}:
        raise ExportError(f"precision {precision!r} is unknown; choose one of {', '.join((*NAMED, *MEASURED))}")
    if precision in FOR_TENSORRT and block is not None and block != FOR_TENSORRT[precision].block:
        only = "block 16" if FOR_TENSORRT[precision].block else "one scale per output and no blocks"
        raise ExportError(f"block {block} is not possible; {precision} has {only}, so leave --block away")
    if precision not in _FLOAT_NAMES and block is not None and block not in INT_BLOCKS:
        raise ExportError(f"block {block} is not possible; choose one of {', '.join(map(str, INT_BLOCKS))}")
    if precision in MEASURED and not has_limit:
        raise ExportError(f"precision {precision!r} needs a budget; give --max-kl and leave --no-quality away")


def check_dialects(precision: str, dialects: Collection[str], *, int8_cache: bool) -> None:
    """Raise ExportError where the graphs that are asked for cannot hold what is asked for."""
    if "ort" in dialects:
        if precision in FOR_TENSORRT:
            raise ExportError(
                f"precision {precision!r} is for TensorRT alone, and dialect 'ort' is asked for; choose --dialect trt "
                '(dialects = ["trt"] in a recipe), and export a second package, in int8, for the CPU'
            )
        return
    if precision in MEASURED:
        raise ExportError(f"precision {precision!r} is chosen with the 'ort' graph; choose --dialect ort,trt, or int8")
    if int8_cache:
        raise ExportError("an int8 cache is for the 'ort' graph alone; choose --dialect ort,trt, or --kv-cache float")


def plan_from_name(precision: str, block: int | None = None) -> PrecisionPlan:
    """The plan of a named precision, or the one that a measured precision starts from: ``int8``.

    Integers have float32 around them, floating-point codes float16. int4 and nvfp4 keep embedding and head at 8 bits:
    they cost little per step and most of the quality. Raises ExportError as ``check_precision`` does.
    """
    check_precision(precision, block, has_limit=True)
    if precision in _FLOAT_NAMES:
        return PrecisionPlan(PRECISE, _FLOAT_NAMES[precision])
    if precision in FOR_TENSORRT:
        wide = {"embedding": FP8, "head": FP8} if precision == "nvfp4" else {}
        return PrecisionPlan(FOR_TENSORRT[precision], "float16", wide)
    bits = 4 if precision == "int4" else 8
    eight = WeightFormat(8, _DEFAULT_BLOCK[8])
    overrides = {"embedding": eight, "head": eight} if bits == 4 else {}
    return PrecisionPlan(WeightFormat(bits, block or _DEFAULT_BLOCK[bits]), "float32", overrides)


def plan_keeping(precision: str, block: int | None, kept: Mapping[str, WeightFormat]) -> PrecisionPlan:
    """``plan_from_name`` with the formats that a checkpoint holds its matrices in already.

    Raises ExportError if a measured precision would have nothing to choose.
    """
    if precision in MEASURED and kept:
        raise ExportError(
            f"precision {precision!r} has nothing to choose: the checkpoint is quantized already; use int8 or int4"
        )
    return plan_from_name(precision, block).keeping(kept)


def kept_formats(found: Mapping[str, Collection[WeightFormat]], spec: DecoderSpec) -> dict[str, WeightFormat]:
    """What a plan keeps of a checkpoint whose matrices, by the plan's names, have the forms ``found``.

    Raises UnsupportedError where a form cannot be kept: projections that a graph fuses but that differ, and
    architectures with a factor that is folded into weights.
    """
    for name, forms in found.items():
        if len(set(forms)) > 1:
            labels = " and ".join(sorted(form.label("float32") for form in set(forms)))
            raise UnsupportedError(
                f"{name}: the checkpoint stores its parts in different forms ({labels}), one is needed; "
                "use the original fp32, fp16 or bf16 checkpoint, or a GGUF file"
            )
    kept = {name: next(iter(forms)) for name, forms in found.items() if set(forms) != {PRECISE}}
    if kept and spec.residual_multiplier != 1.0:
        raise UnsupportedError(
            f"the residual multiplier {spec.residual_multiplier:g} of {spec.architecture!r} cannot be folded into "
            "weights that are stored quantized; use the original fp32, fp16 or bf16 checkpoint, or a GGUF file"
        )
    return kept


def has_integer_products(precision: str) -> bool:
    """Whether a measured precision offers products of integers, which need the inputs' ranges, and not 4 bits."""
    return precision == _W8A8


def four_bit_candidates(spec: DecoderSpec) -> dict[str, WeightFormat]:
    """4 bits for every projection: what ``auto`` offers."""
    four = WeightFormat(4, _DEFAULT_BLOCK[4])
    return {f"layers.{layer}.{role}": four for layer in range(spec.num_layers) for role in PROJECTIONS}


def integer_format(input_scale: float) -> WeightFormat:
    """A product of integers: what ``w8a8`` offers for a projection whose inputs are multiples of ``input_scale``."""
    return WeightFormat(8, 0, input_scale)


def ort_providers(plan: PrecisionPlan) -> tuple[str, ...]:
    """Providers of ONNX Runtime that run the ``ort`` graph of a plan.

    The CPU's kernels compute in float32 and float16, not in bfloat16; products of integers are the CPU's alone, and
    nobody runs codes that are for TensorRT.
    """
    if plan.has_float_codes:
        return ()
    if plan.integer_names:
        return ("cpu",)
    return ("cuda",) if plan.float_type == "bfloat16" else ("cpu", "cuda")


def trt_plan(plan: PrecisionPlan) -> PrecisionPlan:
    """The ``trt`` graph's plan: no products of integers, and half-precision activations around quantized weights.

    TensorRT has no fused float32 attention. A plan of plain float32 stays as it is; TensorRT compiles none of it, but
    ONNX Runtime's CPU provider runs it.
    """
    plan = plan.weights_only()
    is_quantized = any(chosen.bits for chosen in (plan.default, *plan.overrides.values()))
    return replace(plan, float_type="float16") if is_quantized and plan.float_type == "float32" else plan


def is_reported(plan: PrecisionPlan, *, has_limit: bool, int8_cache: bool, emulated: bool) -> bool:
    """Whether a package gets a quality report: one is wanted, something differs from float32, and a CPU can tell.

    ``emulated``: the package has no ``ort`` graph, so that its weights are measured in float32 as they are stored.
    """
    return has_limit and (plan != EXACT or int8_cache) and (emulated or "cpu" in ort_providers(plan))


def needs_float32_first(precision: str, *, int8_cache: bool) -> bool:
    """Whether float32 values are measured before the graph can be written: for a choice, or for a cache's scales."""
    return precision in MEASURED or int8_cache


def is_measured(precision: str, plan: PrecisionPlan, *, has_limit: bool, int8_cache: bool, emulated: bool) -> bool:
    """Whether a build compares anything with float32, before or after the graph is written."""
    before = needs_float32_first(precision, int8_cache=int8_cache)
    return before or is_reported(plan, has_limit=has_limit, int8_cache=int8_cache, emulated=emulated)
