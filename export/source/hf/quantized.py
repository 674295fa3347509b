"""GPTQ and AWQ matrices of Hugging Face folders, where their layout maps exactly to the canonical quantized form.

Layouts as AutoGPTQ / GPTQModel (``qlinear``) and AutoAWQ (``WQLinear_GEMM``) write them, for a matrix [out, in]:

- GPTQ ``qweight`` int32 [in / pack, out]: row r holds inputs r * pack and on, lowest bits first.
- AWQ ``qweight`` int32 [in, out / 8]: nibble i of column c is output 8 * c + (0, 2, 4, 6, 1, 3, 5, 7)[i].
- ``scales`` [groups, out]; ``qzeros`` int32 [groups, out / pack], packed along the outputs in the same order.
- GPTQ ``g_idx`` int32 [in], the group of each input: i // group_size unless columns were reordered (act-order).

weight = (code - zero) * scale. The canonical form has no zero points, so zeros must be the middle, 8 or 128. Everything
but the codes is small and is checked when a matrix is opened. Knows no graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import F32
from export.checkpoint.precision import WeightFormat
from export.checkpoint.quantize import I8, U8
from export.checkpoint.quantized_tensor import QuantizedTensor, quantized_tensor
from export.errors import SourceError, UnsupportedError
from export.source.hf.json_object import JsonObject
from export.source.hf.safetensors_file import FLOAT_KINDS, StoredArray

_GROUPS = (-1, 32, 64, 128)
_LARGEST_BLOCK = 128
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SUPPORTED = (
    "symmetric GPTQ of 4 or 8 bits without act-order and 4-bit AWQ (gemm) whose zeros are all 8 are read; "
    "use the original fp32, fp16 or bf16 checkpoint, or a GGUF file"
)


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """How one folder packs its matrices. ``group`` -1: one scale per output. ``zero_offset``: zero less stored zero."""

    method: str
    bits: int
    group: int
    zero_offset: int
    may_reorder: bool = False

    @property
    def pack(self) -> int:
        """Codes per int32."""
        return 32 // self.bits

    def unpacked(self, packed: npt.NDArray[Any], axis: int) -> U8:
        """int32 [a, b] -> uint8 with ``pack`` times as many entries along ``axis``, in order."""
        words, mask = packed.view(np.uint32), np.uint32(2**self.bits - 1)
        order = _AWQ_ORDER if self.method == "awq" else range(self.pack)
        codes = np.empty((*words.shape[: axis + 1], self.pack, *words.shape[axis + 1 :]), np.uint8)
        for i, place in enumerate(order):
            codes[(slice(None),) * (axis + 1) + (place,)] = (words >> np.uint32(i * self.bits)) & mask
        shape = list(packed.shape)
        shape[axis] *= self.pack
        return codes.reshape(shape)


def layout_from_config(config: JsonObject) -> PackedLayout | None:
    """What ``quantization_config`` says; None without one. Raises UnsupportedError for what has no exact mapping."""
    quantization = config.object("quantization_config")
    if quantization is None:
        return None
    method = quantization.text("quant_method")
    if method not in {"gptq", "awq"}:
        raise _refusal(config.name, f"the weights are stored quantized by {method or 'an unnamed method'!r}")
    layout = _gptq(quantization) if method == "gptq" else _awq(quantization)
    if layout.bits not in ((4, 8) if method == "gptq" else (4,)):
        raise _refusal(quantization.name, f"{method} with {layout.bits} bits")
    if layout.group not in _GROUPS:
        raise _refusal(quantization.name, f"group_size {layout.group} is none of {', '.join(map(str, _GROUPS))}")
    return layout


def _gptq(quantization: JsonObject) -> PackedLayout:
    form = (quantization.text("checkpoint_format") or "gptq").lower()
    if form not in {"gptq", "gptq_v2"}:
        raise _refusal(quantization.name, f"gptq in checkpoint_format {form!r}, not 'gptq' or 'gptq_v2'")
    if not quantization.flag("sym", default=True):
        raise _refusal(quantization.name, "gptq with sym=false, so its zero points differ")
    return PackedLayout(
        "gptq",
        quantization.size("bits"),
        _group(quantization, "group_size"),
        zero_offset=1 if form == "gptq" else 0,
        may_reorder=quantization.flag("desc_act", default=False),
    )


def _awq(quantization: JsonObject) -> PackedLayout:
    version = (quantization.text("version") or "gemm").lower()
    if version != "gemm":
        raise _refusal(quantization.name, f"awq of version {version!r}, not 'gemm'")
    bits = quantization.size("bits" if "bits" in quantization else "w_bit")
    group = _group(quantization, "group_size" if "group_size" in quantization else "q_group_size")
    return PackedLayout("awq", bits, group, zero_offset=0)


def _group(quantization: JsonObject, key: str) -> int:
    return -1 if quantization.values.get(key) == -1 else quantization.size(key)


def packed_matrix(name: str, layout: PackedLayout, find: Callable[[str], StoredArray | None]) -> QuantizedTensor:
    """The matrix of module ``name``; ``find`` gives a stored tensor by key, or None.

    Raises SourceError if its parts contradict each other, UnsupportedError if they have no exact canonical form.
    """
    qweight, qzeros, scales = (_part(name, part, find) for part in ("qweight", "qzeros", "scales"))
    rows, columns = qweight.shape
    is_awq = layout.method == "awq"
    num_in, num_out = (rows, columns * layout.pack) if is_awq else (rows * layout.pack, columns)
    group = num_in if layout.group == -1 else layout.group
    wanted = {scales.key: (num_in // group, num_out), qzeros.key: (num_in // group, num_out // layout.pack)}
    if num_in % group or num_out % layout.pack or any(part.shape != wanted[part.key] for part in (scales, qzeros)):
        raise SourceError(
            f"{name}: qweight {list(qweight.shape)}, scales {list(scales.shape)} and qzeros {list(qzeros.shape)} do "
            f"not fit {layout.bits} bits in groups of {group}; the checkpoint contradicts itself"
        )
    form = WeightFormat(layout.bits, min(group, _LARGEST_BLOCK)).fitted(num_in)
    if not form.bits:
        raise _refusal(name, f"one scale for {num_in} columns, which no block size divides")
    _check_order(name, layout, find(name + ".g_idx"), num_in, group)
    _check_zeros(name, layout, qzeros)
    _check_scales(name, scales)
    repeat, middle = group // form.block, np.uint8(2 ** (layout.bits - 1))

    def read_codes(start: int, stop: int) -> tuple[I8, F32]:
        per_row = np.asarray(scales.read(slice(None), slice(start, stop)), np.float32).T
        codes = _codes(layout, qweight, start, stop)
        return (codes - middle).view(np.int8), np.repeat(per_row, repeat, axis=1)

    return quantized_tensor(name, (num_out, num_in), form, read_codes)


def _codes(layout: PackedLayout, qweight: StoredArray, start: int, stop: int) -> U8:
    """Unsigned codes of outputs [start, stop), uint8 [stop - start, in]."""
    if layout.method == "gptq":
        return np.ascontiguousarray(layout.unpacked(qweight.read(slice(None), slice(start, stop)), axis=0).T)
    first = start // layout.pack
    words = qweight.read(slice(None), slice(first, -(-stop // layout.pack)))
    inside = slice(start - first * layout.pack, stop - first * layout.pack)
    return np.ascontiguousarray(layout.unpacked(words, axis=1)[:, inside].T)


def _part(name: str, part: str, find: Callable[[str], StoredArray | None]) -> StoredArray:
    """A matrix that belongs to module ``name``, of a type that it may have."""
    found = find(f"{name}.{part}")
    if found is None:
        raise SourceError(f"tensor '{name}.{part}' is missing; the checkpoint is incomplete")
    kinds = FLOAT_KINDS if part == "scales" else frozenset({"I32"})
    if len(found.shape) != 2 or min(found.shape) < 1 or found.kind not in kinds:
        raise SourceError(
            f"tensor {found.key!r} is {found.kind} {list(found.shape)}, "
            f"a matrix of {' or '.join(sorted(kinds))} is needed"
        )
    return found


def _check_order(name: str, layout: PackedLayout, g_idx: StoredArray | None, num_in: int, group: int) -> None:
    if g_idx is None:
        if layout.may_reorder:
            raise _refusal(name, "desc_act is true and no g_idx says which group a column belongs to")
        return
    if layout.method == "gptq" and not np.array_equal(g_idx.read(slice(None)), np.arange(num_in) // group):
        raise _refusal(name, "its columns are reordered (g_idx, act-order)")


def _check_zeros(name: str, layout: PackedLayout, qzeros: StoredArray) -> None:
    zeros = layout.unpacked(qzeros.read(slice(None), slice(None)), axis=1)
    low, high = int(zeros.min()) + layout.zero_offset, int(zeros.max()) + layout.zero_offset
    middle = 2 ** (layout.bits - 1)
    if low != middle or high != middle:
        raise _refusal(name, f"zero points from {low} to {high}, all {middle} would be symmetric")


def _check_scales(name: str, scales: StoredArray) -> None:
    values = np.asarray(scales.read(slice(None), slice(None)), np.float32)
    if not np.isfinite(values).all():
        raise SourceError(f"tensor {scales.key!r} holds NaN or infinite values; the checkpoint is damaged")
    if (smallest := float(values.min())) <= 0:
        raise _refusal(name, f"a scale of {smallest:g}, positive ones are needed")


def _refusal(where: str, found: str) -> UnsupportedError:
    return UnsupportedError(f"{where}: {found}; {_SUPPORTED}")
