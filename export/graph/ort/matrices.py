"""How the ``ort`` dialect stores matrices, and multiplies by them: whole, in blocks of few bits, or as integers.

Owns what the manifest records about them. Knows no layer but by its matrices' names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import LazyTensor, column_bands
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.quantize import U8, pack_offset_codes, quantize_paired, quantize_rows
from export.checkpoint.quantized_tensor import quantized_bands
from export.graph.dialect import Value
from export.graph.ort.operators import contributed
from export.graph.writer import GraphWriter

_INPUT_ZERO_POINT = 128


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A quantized matrix of ``shape`` [out, in] in the file: names of its initializers."""

    codes: str
    scales: str
    shape: tuple[int, ...]
    format: WeightFormat


class StoredMatrices:
    """The matrices of one graph, whose other numbers are of ``dtype``.

    ``weight_bytes`` are those that one decode step reads of what was used; ``formats`` the forms by groups of tensors.
    """

    def __init__(self, writer: GraphWriter, plan: PrecisionPlan, dtype: np.dtype[Any]) -> None:
        self._writer, self._plan, self._dtype = writer, plan, dtype
        self.weight_bytes = 0
        self.formats: dict[str, set[str]] = {}

    def product(self, name: str, out: Value, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """The product with ``weight`` plus ``bias``, as the value ``out``."""
        group = "attention" if name.endswith((".qkv", ".o")) else "mlp"
        chosen = self.format(name, group, weight)
        bias_name = self.vector(name + ".bias", bias) if bias else ""
        if chosen.has_integer_inputs:
            return self._integer_product(name, out, x, weight, bias=bias_name, chosen=chosen)
        if chosen.bits:
            return self.in_blocks(out, x, self.quantized(name, weight, chosen), bias_name)
        num_out, num_in = weight.shape
        self._writer.stream(name + ".weight", self._dtype, (num_in, num_out), column_bands(weight.numpy()))
        self.weight_bytes += num_out * num_in * self._dtype.itemsize
        product = self._writer.node("MatMul", [x, name + ".weight"], name + ".product" if bias_name else out)
        return self._writer.node("Add", [product, bias_name], out) if bias_name else product

    def format(self, name: str, group: str, weight: LazyTensor) -> WeightFormat:
        """The form that the plan has for a matrix, which is noted for its ``group``."""
        chosen = self._plan.format_of(name, weight.shape[1])
        self.formats.setdefault(group, set()).add(chosen.label(self._plan.float_type))
        return chosen

    def vector(self, name: str, tensor: LazyTensor) -> str:
        """A constant of a few values: a norm's weights, or a bias."""
        values = tensor.numpy()
        self.weight_bytes += values.size * self._dtype.itemsize
        return self._writer.constant(name, values.astype(self._dtype))

    def quantized(self, name: str, weight: LazyTensor, chosen: WeightFormat) -> StoredMatrix:
        """Initializers ``name.codes`` and ``name.scales``, band by band: the checkpoint's own, or quantized here."""
        stored = StoredMatrix(name + ".codes", name + ".scales", weight.shape, chosen)
        scales: list[npt.NDArray[Any]] = []
        round_to_nearest = partial(quantize_rows, bits=chosen.bits, block=chosen.block)

        def codes() -> Iterator[U8]:
            for band_codes, band_scales in quantized_bands(weight, chosen, self._dtype, round_to_nearest):
                scales.append(band_scales)
                yield pack_offset_codes(band_codes, chosen.bits, chosen.block)

        num_out, num_in = weight.shape
        blocks = num_in // chosen.block
        self._writer.stream(stored.codes, np.uint8, (num_out, blocks, chosen.block * chosen.bits // 8), codes())
        self._writer.stream(stored.scales, self._dtype, (num_out, blocks), scales)
        return stored

    def in_blocks(self, name: str, x: Value, stored: StoredMatrix, bias: str = "") -> Value:
        """MatMulNBits: the product with a matrix that is quantized in blocks."""
        (num_out, num_in), chosen = stored.shape, stored.format
        self.weight_bytes += chosen.num_bytes(stored.shape, self._dtype.itemsize)
        inputs = {"A": x, "B": stored.codes, "scales": stored.scales} | ({"bias": bias} if bias else {})
        attributes = {"N": num_out, "K": num_in, "bits": chosen.bits, "block_size": chosen.block, "accuracy_level": 4}
        return contributed(self._writer, "MatMulNBits", inputs, name, **attributes)

    def _integer_product(
        self, name: str, out: Value, x: Value, weight: LazyTensor, *, chosen: WeightFormat, bias: str
    ) -> Value:
        """QuantizeLinear and MatMulIntegerToFloat. The input's scale is a constant, so a row's codes are its own."""
        writer, (num_out, num_in) = self._writer, weight.shape
        bands = [quantize_paired(band) for band in weight.bands()]
        codes = np.concatenate([band_codes for band_codes, _ in bands])
        writer.stream(name + ".codes", np.int8, (num_in, num_out), column_bands(codes))
        scales = writer.constant(name + ".scales", np.concatenate([band_scales for _, band_scales in bands]))
        self.weight_bytes += chosen.num_bytes(weight.shape, self._dtype.itemsize)
        scale = writer.constant(name + ".input_scale", np.asarray(chosen.input_scale, np.float32))
        zero = writer.constant("input_zero_point", np.asarray(_INPUT_ZERO_POINT, np.uint8))
        rounded = writer.node("QuantizeLinear", [x, scale, zero], name + ".input")
        inputs = {"A": rounded, "B": name + ".codes", "a_scale": scale, "b_scale": scales, "a_zero_point": zero}
        return contributed(self._writer, "MatMulIntegerToFloat", inputs | ({"bias": bias} if bias else {}), out)
