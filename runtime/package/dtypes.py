"""Element types of a graph's tensors and what each library calls them: one table for export and runtime.

Numbers and names only; imports no library that it names but NumPy's types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class ElementType:
    """One type. ``onnx_number`` is a member of ``onnx.TensorProto.DataType``, ``ort_name`` what ONNX Runtime says of an
    input, ``tensorrt_name`` a member of TensorRT's ``DataType``."""

    numpy: np.dtype[Any]
    onnx_number: int
    ort_name: str
    tensorrt_name: str

    @property
    def name(self) -> str:
        """As the manifest says it, which is NumPy's name."""
        return self.numpy.name

    @property
    def itemsize(self) -> int:
        """Bytes of one element; 4 bits count as the byte that they take before they are packed."""
        return self.numpy.itemsize


FLOAT32 = ElementType(np.dtype(np.float32), 1, "tensor(float)", "FLOAT")
FLOAT16 = ElementType(np.dtype(np.float16), 10, "tensor(float16)", "HALF")
BFLOAT16 = ElementType(np.dtype(ml_dtypes.bfloat16), 16, "tensor(bfloat16)", "BF16")
FLOATS = (FLOAT32, FLOAT16, BFLOAT16)

_INTEGERS = (
    ElementType(np.dtype(np.bool_), 9, "tensor(bool)", "BOOL"),
    ElementType(np.dtype(np.uint8), 2, "tensor(uint8)", "UINT8"),
    ElementType(np.dtype(np.int8), 3, "tensor(int8)", "INT8"),
    ElementType(np.dtype(np.int32), 6, "tensor(int32)", "INT32"),
    ElementType(np.dtype(np.int64), 7, "tensor(int64)", "INT64"),
    ElementType(np.dtype(ml_dtypes.int4), 22, "tensor(int4)", "INT4"),
)

_FLOAT_CODES = (
    ElementType(np.dtype(ml_dtypes.float8_e4m3fn), 17, "tensor(float8e4m3fn)", "FP8"),
    ElementType(np.dtype(ml_dtypes.float4_e2m1fn), 23, "tensor(float4e2m1)", "FP4"),
)
"""What weights are stored in for TensorRT alone; nothing is computed in them."""

BY_NAME = {kind.name: kind for kind in (*FLOATS, *_INTEGERS, *_FLOAT_CODES)}
BY_ORT_NAME = {kind.ort_name: kind for kind in BY_NAME.values()}
