"""Weights of the ``trt`` dialect: floating point, or symmetric codes with a DequantizeLinear behind them.

TensorRT keeps int4 and int8 codes packed when blocks lie along the reduction axis, zero points are absent and scales
are positive; E4M3 codes with a scale per output and E2M1 codes in blocks of 16 likewise. Knows no graph but the few
nodes that make a weight usable as the right side of a MatMul.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from runtime.package import dtypes

from export.checkpoint import float_codes
from export.checkpoint.lazy_tensor import F32, LazyTensor, column_bands
from export.checkpoint.precision import WeightFormat
from export.checkpoint.quantize import I8, U8, dequantize_rows, quantize_rows
from export.checkpoint.quantized_tensor import quantized_bands
from export.graph.dialect import Value
from export.graph.writer import DType, GraphWriter


class TrtWeights:
    """Writes weights into a GraphWriter and counts the bytes that one decode step reads."""

    def __init__(self, writer: GraphWriter, dtype: np.dtype[Any]) -> None:
        self._writer, self._dtype = writer, dtype
        self.num_bytes = 0

    def vector(self, name: str, tensor: LazyTensor) -> str:
        """A norm's weight or a bias, [n]."""
        values = tensor.numpy().astype(self._dtype)
        self.num_bytes += values.nbytes
        return self._writer.constant(name, values)

    def matrix(self, name: str, weight: LazyTensor, chosen: WeightFormat) -> Value:
        """``weight`` [N, K] as a value [K, N]."""
        num_out, num_in = weight.shape
        if not chosen.bits:
            self.num_bytes += num_out * num_in * self._dtype.itemsize
            return self._writer.stream(name + ".weight", self._dtype, (num_in, num_out), column_bands(weight.numpy()))
        if chosen.has_float_codes:
            return self._nvfp4(name, weight) if chosen.block else self._fp8(name, weight)
        codes, scales = self._codes(name, weight, chosen)
        return self._writer.node("DequantizeLinear", [codes, scales], name + ".matrix", axis=0, block_size=chosen.block)

    def _codes(self, name: str, weight: LazyTensor, chosen: WeightFormat) -> tuple[str, str]:
        """Codes [K, N] and scales [K / block, N]. TensorRT stores codes that lie the other way round twice."""
        num_out, num_in = weight.shape
        rounded = partial(quantize_for, bits=chosen.bits, block=chosen.block, dtype=self._dtype)
        bands = list(quantized_bands(weight, chosen, self._dtype, rounded))
        codes = np.concatenate([band_codes for band_codes, _ in bands]).T
        scales = np.concatenate([band_scales for _, band_scales in bands]).T
        dtype = ml_dtypes.int4 if chosen.bits == 4 else np.int8
        stored = pack_int4(codes) if chosen.bits == 4 else codes
        self._writer.stream(name + ".codes", dtype, (num_in, num_out), [stored])
        self._writer.stream(name + ".scales", self._dtype, scales.shape, [scales])
        self.num_bytes += num_out * num_in * chosen.bits // 8 + scales.nbytes
        return name + ".codes", name + ".scales"

    def _fp8(self, name: str, weight: LazyTensor) -> Value:
        """E4M3 codes [K, N] and scales [N]."""
        bands = [float_codes.quantize_fp8(band, self._dtype) for band in weight.bands()]
        scales = np.concatenate([band_scales for _, band_scales in bands])
        inputs = [
            self._transposed(name + ".codes", [codes for codes, _ in bands]),
            self._writer.stream(name + ".scales", self._dtype, scales.shape, [scales]),
        ]
        self.num_bytes += weight.shape[0] * weight.shape[1] + scales.nbytes
        return self._writer.node("DequantizeLinear", inputs, name + ".matrix", axis=1)

    def _nvfp4(self, name: str, weight: LazyTensor) -> Value:
        """E2M1 codes [K, N], E4M3 scales [K / 16, N], a float32 scale; the scales are multiplied in the graph.

        TensorRT for RTX 1.7.1 takes them in this form: not with float32 products of scales and codes of half.
        """
        num_out, num_in = weight.shape
        matrix_scale = float_codes.nvfp4_matrix_scale(largest_magnitude([weight]))
        bands = [float_codes.quantize_nvfp4(band, matrix_scale, self._dtype) for band in weight.bands()]
        codes = np.concatenate([band_codes for band_codes, _ in bands]).T
        self._writer.stream(name + ".codes", codes.dtype, (num_in, num_out), [float_codes.pack_fp4(codes)])
        scales = [
            self._transposed(name + ".scales", [band_scales for _, band_scales in bands]),
            self._writer.constant(name + ".matrix_scale", np.asarray(matrix_scale, np.float32)),
        ]
        half = dtypes.BY_NAME[self._dtype.name].onnx_number
        steps = self._writer.node("DequantizeLinear", scales, name + ".steps", output_dtype=half)
        self.num_bytes += num_out * num_in // 2 + num_out * num_in // float_codes.NVFP4_BLOCK + 4
        return self._writer.node(
            "DequantizeLinear", [name + ".codes", steps], name + ".matrix", axis=0, block_size=float_codes.NVFP4_BLOCK
        )

    def _transposed(self, name: str, bands: Sequence[npt.NDArray[Any]]) -> str:
        """Rows, band by band, as the columns of an initializer."""
        whole = np.concatenate(bands)
        return self._writer.stream(name, whole.dtype, whole.T.shape, column_bands(whole))


def stored_values(weights: F32, chosen: WeightFormat, dtype: np.dtype[Any], largest: float) -> F32:
    """The values of rows [N, K] as ``TrtWeights`` stores them in ``chosen``, float32 [N, K].

    ``largest`` is the largest magnitude in the whole matrix that the rows are of; only nvfp4 looks at it.
    """
    if not chosen.bits:
        return weights.astype(dtype).astype(np.float32)
    if not chosen.has_float_codes:
        codes, scales = quantize_for(weights, chosen.bits, chosen.block, dtype)
        return dequantize_rows(codes, scales.astype(np.float32))
    if not chosen.block:
        return float_codes.dequantize_fp8(*float_codes.quantize_fp8(weights, dtype))
    scale = float_codes.nvfp4_matrix_scale(largest)
    return float_codes.dequantize_nvfp4(*float_codes.quantize_nvfp4(weights, scale, dtype), scale, dtype)


def largest_magnitude(parts: Iterable[LazyTensor]) -> float:
    """Over all parts of a matrix."""
    return max(float(np.abs(band).max()) for part in parts for band in part.bands())


def quantize_for(weights: F32, bits: int, block: int, dtype: DType) -> tuple[I8, npt.NDArray[Any]]:
    """``quantize_rows`` with scales that ``dtype`` holds exactly: float32 [N, K] -> int8 [N, K], dtype [N, K / block].

    Codes are rounded anew against the stored scale, so a half-precision scale costs no accuracy of its own; a scale
    that would round to zero becomes the smallest positive number of the type, since TensorRT refuses zero.
    """
    codes, scale = quantize_rows(weights, bits, block)
    if np.dtype(dtype) == np.float32:
        return codes, scale
    smallest = np.array(1, np.uint16).view(dtype)  # the least subnormal's bits in float16 and bfloat16
    stored = np.maximum(scale.astype(dtype), smallest)
    top = float(2 ** (bits - 1))
    blocks = weights.reshape(*scale.shape, block) / stored.astype(np.float32)[..., None]
    return np.clip(np.rint(blocks), -top, top - 1).astype(np.int8).reshape(weights.shape), stored


def pack_int4(codes: I8) -> U8:
    """ONNX's INT4 layout: two's complement in row-major order, the even element in the low half of a byte."""
    nibbles = np.ascontiguousarray(codes).view(np.uint8).reshape(-1) & np.uint8(0x0F)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
