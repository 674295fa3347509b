"""Weights of the ``trt`` dialect: floating point, or symmetric integer codes with a DequantizeLinear behind them.

TensorRT keeps int4 and int8 codes packed when blocks lie along the reduction axis, zero points are absent and scales
are positive. Knows no graph but the few nodes that make a weight usable as the right side of a MatMul.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import F32, LazyTensor, column_bands
from export.checkpoint.precision import WeightFormat
from export.checkpoint.quantize import I8, U8, quantize_rows
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
