"""Weights as small floating-point codes: E4M3 with a scale per output, and E2M1 in blocks of 16 with scales of E4M3.

Rounding is to the nearest code, ties to the even one, and ends at the largest finite code: E4M3 has a NaN beyond 448
and E2M1 nothing beyond 6. Scales are held by the type that a graph computes in, exactly. Knows no graph.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import F32

FP8_LARGEST = 448.0
"""Of E4M3 (float8_e4m3fn), whose least positive numbers are multiples of 2^-9."""
FP4_LARGEST = 6.0
"""Of E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives."""
NVFP4_BLOCK = 16

Codes = npt.NDArray[Any]

_E4M3, _E2M1 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float4_e2m1fn)
_LEAST_E4M3 = np.float32(2.0**-9)
_SMALLEST_SCALE = 2.0**-100


def quantize_fp8(weights: F32, dtype: npt.DTypeLike) -> tuple[Codes, Codes]:
    """float32 [N, K] -> float8_e4m3fn [N, K], scales ``dtype`` [N]; weight = code * scale.

    A row's scale is its largest magnitude over 448, rounded up to what ``dtype`` holds; a row of zeros gets scale 1. A
    scale beyond ``dtype`` is infinite.
    """
    largest = np.abs(weights).max(axis=1)
    scale = largest / np.float32(FP8_LARGEST)
    scale = np.where(scale > _SMALLEST_SCALE, scale, np.float32(1.0)).astype(np.float32)
    with np.errstate(over="ignore"):
        stored = scale.astype(dtype)
    if stored.dtype.itemsize == 2:  # the next number of a positive one is its bits' successor
        stored = (stored.view(np.uint16) + (stored.astype(np.float32) < scale)).astype(np.uint16).view(stored.dtype)
    return (weights / stored.astype(np.float32)[:, None]).astype(_E4M3), stored  # at most 448, or a rounding above it


def dequantize_fp8(codes: Codes, scales: Codes) -> F32:
    """What ``quantize_fp8`` stored, float32 [N, K]."""
    values: F32 = codes.astype(np.float32) * scales.astype(np.float32)[:, None]
    return values


def nvfp4_matrix_scale(largest: float) -> float:
    """The one scale of a matrix whose largest magnitude is ``largest``: with it every block's scale fits E4M3.

    It is the least such power of two, so that products with it are exact and no bit of the blocks' scales is given up.
    """
    if largest <= _SMALLEST_SCALE:
        return 1.0
    mantissa, exponent = math.frexp(largest / (FP4_LARGEST * FP8_LARGEST))  # 0.5 <= mantissa < 1
    return math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)


def quantize_nvfp4(weights: F32, matrix_scale: float, dtype: npt.DTypeLike) -> tuple[Codes, Codes]:
    """float32 [N, K] -> float4_e2m1fn [N, K], scales float8_e4m3fn [N, K / 16]; all scales are positive.

    A block's scale is its largest magnitude over 6 and ``matrix_scale``, rounded to E4M3. Codes are rounded against
    the product of both as ``dtype`` holds it.
    """
    blocks = weights.reshape(weights.shape[0], -1, NVFP4_BLOCK)
    wanted = np.abs(blocks).max(axis=2) / np.float32(FP4_LARGEST * matrix_scale)
    scales = np.clip(wanted, _LEAST_E4M3, FP8_LARGEST).astype(_E4M3)
    steps = nvfp4_steps(scales, matrix_scale, dtype)[..., None]
    scaled = np.divide(blocks, steps, out=np.zeros_like(blocks), where=steps > 0)
    return scaled.astype(_E2M1).reshape(weights.shape), scales  # the type itself ends at 6


def dequantize_nvfp4(codes: Codes, scales: Codes, matrix_scale: float, dtype: npt.DTypeLike) -> F32:
    """What ``quantize_nvfp4`` stored, float32 [N, K]."""
    blocks = codes.astype(np.float32).reshape(*scales.shape, NVFP4_BLOCK)
    values: F32 = (blocks * nvfp4_steps(scales, matrix_scale, dtype)[..., None]).reshape(codes.shape)
    return values


def nvfp4_steps(scales: Codes, matrix_scale: float, dtype: npt.DTypeLike) -> F32:
    """What a code of 1 stands for in each block, float32: the graph makes it in ``dtype``."""
    with np.errstate(over="ignore"):
        steps: F32 = (scales.astype(np.float32) * np.float32(matrix_scale)).astype(dtype).astype(np.float32)
    return steps


def pack_fp4(codes: Codes) -> npt.NDArray[np.uint8]:
    """ONNX's FLOAT4E2M1 layout: row-major order, the even element in the low half of a byte."""
    nibbles = np.ascontiguousarray(codes).view(np.uint8).reshape(-1)
    return nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
