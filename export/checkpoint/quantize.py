"""Block-wise symmetric quantization into the canonical form that every dialect can store.

Canonical: signed ``q`` [N, K] and positive ``scale`` [N, K / block], weight = q * scale. Scales are positive and zero
points absent because TensorRT refuses others. Knows no graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.checkpoint.lazy_tensor import F32

I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

_SMALLEST_SCALE = np.float32(2.0**-100)
_PAIR_LIMIT = 128


def quantize_rows(weights: F32, bits: int, block: int) -> tuple[I8, F32]:
    """Round to nearest: float32 [N, K] -> int8 [N, K] within [-2^(bits-1), 2^(bits-1) - 1], float32 [N, K / block].

    A block's scale is the smallest positive one that clips nothing, so a block whose largest magnitude is negative
    uses the one code more that the negative side has. A block of zeros gets scale 1.
    """
    blocks = weights.reshape(weights.shape[0], -1, block)
    top = float(2 ** (bits - 1))
    scale = np.maximum(blocks.max(axis=2) / np.float32(top - 1), blocks.min(axis=2) / np.float32(-top))
    scale = np.where(scale > _SMALLEST_SCALE, scale, np.float32(1.0)).astype(np.float32)
    codes = blocks * (np.float32(1.0) / scale)[..., None]
    np.rint(codes, out=codes)
    np.clip(codes, -top, top - 1, out=codes)
    return codes.astype(np.int8).reshape(weights.shape), scale


def quantize_paired(weights: F32) -> tuple[I8, F32]:
    """Codes for products with uint8 inputs: float32 [N, K] -> int8 [N, K] within [-127, 127], float32 [N].

    AVX2 multiplies uint8 by int8 and adds each two neighbouring products in 16 bits, with saturation (VPMADDUBSW;
    MLAS packs columns 2j and 2j + 1 together). 255 * (|a| + |b|) fits 32,767 as long as |a| + |b| <= 128, so a row's
    scale is set by its largest pair and not, as usual, by its largest weight; limiting every weight to 63 would give up
    more. The sum is then exact on every CPU: by this arithmetic, it was executed on one with VNNI only.
    """
    magnitudes = np.abs(weights)
    pairs = magnitudes[:, 0::2].copy()
    pairs[:, : weights.shape[1] // 2] += magnitudes[:, 1::2]
    # Rounding can add half a code to each weight of a pair, hence 127 for what must not pass 128.
    scale = np.maximum(pairs.max(axis=1), magnitudes.max(axis=1)) / np.float32(_PAIR_LIMIT - 1)
    scale = np.where(scale > _SMALLEST_SCALE, scale, np.float32(1.0)).astype(np.float32)
    return np.rint(weights / scale[:, None]).astype(np.int8), scale


def dequantize_rows(codes: I8, scale: F32) -> F32:
    """The weights that the canonical form stands for, float32 [N, K]."""
    blocks = codes.reshape(*scale.shape, -1).astype(np.float32)
    return (blocks * scale[..., None]).reshape(codes.shape)


def pack_offset_codes(codes: I8, bits: int, block: int) -> U8:
    """``com.microsoft.MatMulNBits``' layout: codes + 2^(bits-1) as unsigned, uint8 [N, K / block, block * bits / 8].

    At 4 bits the even column is the low half of a byte.
    """
    if bits == 8:
        return (codes.view(np.uint8) ^ np.uint8(0x80)).reshape(codes.shape[0], -1, block)
    unsigned = (codes + np.int8(8)).view(np.uint8)
    packed = unsigned[:, 0::2] | (unsigned[:, 1::2] << np.uint8(4))
    return packed.reshape(codes.shape[0], -1, block // 2)
