"""Codes of floating point, by hand: which number each weight becomes, and what the scales are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from export.checkpoint.float_codes import (
    dequantize_fp8,
    dequantize_nvfp4,
    nvfp4_matrix_scale,
    pack_fp4,
    quantize_fp8,
    quantize_nvfp4,
)

F32 = npt.NDArray[np.float32]


def rows(*values: list[float]) -> F32:
    return np.array(values, np.float32)


def test_fp8_rounds_each_row_against_its_own_scale() -> None:
    """E4M3 has steps of 32 from 256 to 448, of 1 from 8 to 16, of 2^-9 below 2^-6; a tie goes to the even code."""
    weights = rows(
        [448.0, -300.0, 304.0, 336.0, 8.5, 9.5, 2.0**-10, 2.0**-9], [-0.875, 0.4375, 0, 0, 0, 0, 0, 0], [0.0] * 8
    )
    codes, scales = quantize_fp8(weights, np.float16)
    assert (codes.dtype, scales.dtype) == (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(np.float16))
    assert scales.tolist() == [1.0, 2.0**-9, 1.0]
    assert codes.astype(np.float32).tolist() == [
        [448.0, -288.0, 304.0 + 16, 320.0, 8.0, 10.0, 0.0, 2.0**-9],
        [-448.0, 224.0, 0, 0, 0, 0, 0, 0],
        [0.0] * 8,
    ]
    assert dequantize_fp8(codes, scales)[1, :2].tolist() == [-0.875, 0.4375]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_fp8_saturates_and_scales_are_rounded_up(dtype: npt.DTypeLike) -> None:
    """A scale that were rounded down would push a row's largest weight beyond the last code, which is NaN there."""
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((64, 16)) * 10.0 ** rng.integers(-8, 4, (64, 1))).astype(np.float32)
    weights[0] = np.float32(448 * 1.4 * 2.0**-24)  # its scale lies between float16's two least numbers
    weights[1] = np.float32(1e-30)
    codes, scales = quantize_fp8(weights, dtype)
    values = codes.astype(np.float32)
    exact, stored = np.abs(weights).max(axis=1) / np.float32(448), scales.astype(np.float32)
    assert np.isfinite(values).all()
    assert (stored >= exact)[exact > 2.0**-100].all()
    assert (stored > 0).all()
    error = np.abs(dequantize_fp8(codes, scales) - weights)
    assert (error <= np.maximum(np.abs(weights) / 16, stored[:, None] * 2.0**-10) * 1.0001).all()


def test_fp8_of_huge_weights_is_finite_where_the_scale_is() -> None:
    weights = rows([3e38, -1e38])
    codes, scales = quantize_fp8(weights, ml_dtypes.bfloat16)
    np.testing.assert_allclose(dequantize_fp8(codes, scales), weights, rtol=1 / 16)
    assert quantize_fp8(weights, np.float16)[1].tolist() == [np.inf]  # told from there on


@pytest.mark.parametrize(
    ("largest", "scale"),
    [(2688.0, 1.0), (2689.0, 2.0), (1344.0, 0.5), (1.0, 2.0**-11), (0.0, 1.0), (1e-35, 1.0)],
)
def test_a_matrix_scale_is_the_least_power_of_two_that_fits(largest: float, scale: float) -> None:
    """6 x 448 = 2688."""
    assert nvfp4_matrix_scale(largest) == scale


def test_nvfp4_rounds_each_block_against_two_scales() -> None:
    """The matrix's scale is 2^-11 for weights up to 1; E2M1 has 0, 0.5, 1, 1.5, 2, 3, 4 and 6."""
    block = [6.0, -4.0, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, -0.3, 5.0, -5.5, 0.0, 1.0, 2.0, 3.0, 0.5]
    weights = rows([value / 8 for value in block] + [0.0] * 16)
    codes, scales = quantize_nvfp4(weights, 2.0**-11, np.float16)
    assert (codes.dtype, scales.dtype) == (np.dtype(ml_dtypes.float4_e2m1fn), np.dtype(ml_dtypes.float8_e4m3fn))
    assert scales.astype(np.float32).tolist() == [[256.0, 2.0**-9]]  # 0.75 / 6 / 2^-11; the least for a block of zeros
    rounded = [6.0, -4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 0.0, -0.5, 4.0, -6.0, 0.0, 1.0, 2.0, 3.0, 0.5]
    assert codes.astype(np.float32).tolist() == [rounded + [0.0] * 16]
    assert dequantize_nvfp4(codes, scales, 2.0**-11, np.float16)[0, :16].tolist() == [value / 8 for value in rounded]


def test_nvfp4_saturates_where_a_scale_was_rounded_down() -> None:
    """A block's scale of 17 becomes 16 in E4M3, so that its largest weight lies beyond the last code."""
    codes, scales = quantize_nvfp4(rows([6.0 * 17] * 8 + [-6.0 * 17] * 8), 1.0, np.float16)
    assert scales.astype(np.float32).tolist() == [[16.0]]
    assert codes.astype(np.float32).tolist() == [[6.0] * 8 + [-6.0] * 8]


def test_nvfp4_blocks_that_half_precision_cannot_scale_are_zero() -> None:
    """2^-9 times a matrix scale of 2^-20 is nothing in float16: dividing by it would give NaN."""
    weights = rows([2.0**-27] * 16)
    codes, scales = quantize_nvfp4(weights, 2.0**-20, np.float16)
    assert codes.astype(np.float32).tolist() == [[0.0] * 16]
    assert dequantize_nvfp4(codes, scales, 2.0**-20, np.float16).tolist() == [[0.0] * 16]


def test_fp4_codes_are_packed_low_half_first() -> None:
    """Sign, two bits of exponent, one of mantissa: 1 is 2, -1 is 10, 6 is 7, 0.5 is 1."""
    assert pack_fp4(np.array([[1.0, -1.0], [6.0, 0.5]], ml_dtypes.float4_e2m1fn)).tolist() == [0xA2, 0x17]
