"""In which form each weight is stored. Values only: which form is chosen when is precision_policy's, how numbers get
there quantize's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

FloatType = Literal["float32", "float16", "bfloat16"]

INT_BLOCKS = (128, 64, 32, 16)
"""Columns that may share a scale."""

_FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """``bits`` 0: floating point in the graph's own type. 4 or 8: signed integers, one scale per ``block`` columns.

    With ``input_scale`` above 0 the product itself is one of integers: 8-bit weights with one scale per output, whose
    inputs are rounded to multiples of ``input_scale``; ``block`` is 0 then.

    With ``has_float_codes`` the codes are small floating-point numbers, which TensorRT alone reads: 8 bits are E4M3
    with one scale per output (``block`` 0), 4 bits are E2M1 with an E4M3 scale per 16 columns and one per matrix.
    """

    bits: int = 0
    block: int = 0
    input_scale: float = 0.0
    has_float_codes: bool = False

    @property
    def has_integer_inputs(self) -> bool:
        """Whether the product is one of integers."""
        return self.input_scale > 0.0

    def fitted(self, num_columns: int) -> WeightFormat:
        """This format with the largest block, not above its own, that divides ``num_columns``; else floating point."""
        if self.bits == 0 or self.has_integer_inputs:
            return self
        if self.has_float_codes:
            return self if not self.block or num_columns % self.block == 0 else WeightFormat()
        block = next((size for size in INT_BLOCKS if size <= self.block and num_columns % size == 0), 0)
        return WeightFormat(self.bits, block) if block else WeightFormat()

    def label(self, float_type: FloatType) -> str:
        """As the manifest says it, such as ``int8 block 64``."""
        if self.has_integer_inputs:
            return "int8 weights and inputs"
        if self.has_float_codes:
            return f"nvfp4 block {self.block}" if self.block else "fp8 per channel"
        return f"int{self.bits} block {self.block}" if self.bits else float_type

    def num_bytes(self, shape: Sequence[int], float_bytes: int) -> int:
        """Bytes of a matrix [out, in]: its codes and scales, or its numbers of ``float_bytes`` each."""
        num_out, num_in = shape
        if self.bits == 0:
            return num_out * num_in * float_bytes
        num_scales = num_out * num_in // self.block if self.block else num_out
        if self.has_float_codes and self.block:
            return num_out * num_in // 2 + num_scales + 4  # a scale of a block is a byte, the matrix's is float32
        return num_out * num_in * self.bits // 8 + num_scales * float_bytes


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """``default`` for every matrix but those in ``overrides``, by name: ``embedding``, ``head``, ``layers.3.down``...

    The fused projections are named ``layers.{i}.qkv`` and ``layers.{i}.gate_up``. ``float_type`` is that of the
    activations, the cache and every weight that is not quantized. A tied head shares the embedding's format.
    """

    default: WeightFormat
    float_type: FloatType = "float32"
    overrides: Mapping[str, WeightFormat] = field(default_factory=dict)

    def format_of(self, name: str, num_columns: int) -> WeightFormat:
        """The format of a matrix with ``num_columns`` inputs."""
        return self.overrides.get(name, self.default).fitted(num_columns)

    def keeping(self, formats: Mapping[str, WeightFormat]) -> PrecisionPlan:
        """This plan with ``formats``, by name, for the matrices that a checkpoint holds quantized already."""
        return replace(self, overrides={**self.overrides, **formats}) if formats else self

    @property
    def has_float_codes(self) -> bool:
        """Whether a matrix is stored in codes that TensorRT alone reads."""
        return any(chosen.has_float_codes for chosen in (self.default, *self.overrides.values()))

    @property
    def integer_names(self) -> frozenset[str]:
        """Names of the matrices whose products are of integers."""
        return frozenset(name for name, chosen in self.overrides.items() if chosen.has_integer_inputs)

    def weights_only(self) -> PrecisionPlan:
        """This plan with ``default`` wherever it has products of integers, for dialects without them."""
        kept = {name: chosen for name, chosen in self.overrides.items() if not chosen.has_integer_inputs}
        return replace(self, overrides=kept)


def names_planned_with(name: str) -> tuple[str, ...]:
    """Canonical tensors that are one matrix together with the tensor ``name``, itself included."""
    head, _, role = name.rpartition(".")
    if role not in _FUSED:
        return (name,)
    return tuple(f"{head}.{other}" for other, fused in _FUSED.items() if fused == _FUSED[role])


def planned_name(name: str) -> str:
    """The plan's name of a canonical tensor: fused projections are planned as one."""
    head, _, role = name.rpartition(".")
    return f"{head}.{_FUSED.get(role, role)}" if head else role


PRECISE = WeightFormat()
"""A matrix that is not quantized."""

FP8 = WeightFormat(8, 0, has_float_codes=True)
NVFP4 = WeightFormat(4, 16, has_float_codes=True)

EXACT = PrecisionPlan(PRECISE)
"""float32 throughout: what every other plan is measured against."""
