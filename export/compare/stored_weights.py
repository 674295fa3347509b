"""Reads a graph's weights as the float32 values that it computes with, whatever form they are stored in.

Knows the operators by which our dialects use a weight (those of ONNX Runtime for matrices quantized in blocks or by
column, ``DequantizeLinear``, ``MatMul``) and reads its bytes from the graph's external data as a map of the file.
Matrices come as [out, in]; everything else as it lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data
from runtime.package import dtypes

from export.checkpoint import float_codes
from export.checkpoint.lazy_tensor import F32
from export.checkpoint.quantize import dequantize_rows
from export.errors import ExportError

_BAND_VALUES = 2**22
_ROLES = (".codes", ".table", ".weight")
_SCALES = (".scales", ".matrix_scale")
_PACKED = frozenset({TensorProto.INT4, TensorProto.FLOAT4E2M1})
_FLOATS = {kind.onnx_number for kind in dtypes.FLOATS}

Rows = Callable[[int, int], F32]


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """``read(start, stop)`` gives those rows of ``shape`` in float32; ``form`` says how they are stored."""

    form: str
    shape: tuple[int, ...]
    read: Rows

    def bands(self) -> Iterator[F32]:
        """All rows, some at a time: memory is that of a band."""
        if not self.shape:
            yield self.read(0, 1)
            return
        rows = max(1, _BAND_VALUES // max(1, int(np.prod(self.shape[1:]))))
        for start in range(0, self.shape[0], rows):
            yield self.read(start, min(start + rows, self.shape[0]))


def stored_weights(graph: Path) -> dict[str, StoredWeight]:
    """Weights by their names without the role, as in ``layers.0.qkv``, in the graph's order. Raises ExportError.

    A tied head's matrix is the embedding's.
    """
    model = onnx.load(str(graph), load_external_data=False)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    reader = _Reader(graph.parent, tensors, {name: node for node in model.graph.node for name in node.output})
    found: dict[str, StoredWeight] = {}
    for node in model.graph.node:
        weight = next((name for name in node.input if name in tensors), "")
        if node.op_type in _FORMS and weight.endswith(_ROLES):
            scales = _without_role(weight) + ".scales"
            found.setdefault(_without_role(weight), _FORMS[node.op_type](reader, node, weight, scales))
    scales_found = {name + role for name in found for role in _SCALES}
    for name in tensors.keys() - scales_found:
        if _without_role(name) not in found and tensors[name].data_type in _FLOATS:
            found[_without_role(name)] = _plain(reader, name)
    return {name: found[name] for name in dict.fromkeys(map(_without_role, tensors)) if name in found}


class _Reader:
    """The arrays of initializers, mapped from the file where they lie outside of the graph; and who makes a value."""

    def __init__(self, folder: Path, tensors: dict[str, TensorProto], makers: dict[str, NodeProto]) -> None:
        self._folder, self._tensors, self.makers = folder, tensors, makers

    def array(self, name: str) -> npt.NDArray[Any]:
        """An initializer as it is stored; two values of 4 bits are one byte."""
        tensor = self._tensors[name]
        if not uses_external_data(tensor):
            return np.asarray(numpy_helper.to_array(tensor))
        place, shape = {entry.key: entry.value for entry in tensor.external_data}, tuple(tensor.dims)
        if Path(place["location"]).name != place["location"]:
            raise ExportError(f"{name} lies outside of its graph's folder, in {place['location']!r}")
        packed = tensor.data_type in _PACKED
        dtype: np.dtype[Any] = np.dtype(np.uint8) if packed else helper.tensor_dtype_to_np_dtype(tensor.data_type)
        stored = (-(-int(np.prod(shape)) // 2),) if packed else shape
        data = np.memmap(self._folder / place["location"], np.uint8, "r")
        begin, count = int(place.get("offset", "0")), int(np.prod(stored)) * dtype.itemsize
        return data[begin : begin + count].view(dtype).reshape(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """As the graph says it."""
        return tuple(self._tensors[name].dims)

    def type_of(self, name: str) -> int:
        """A member of ``TensorProto.DataType``."""
        return int(self._tensors[name].data_type)


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(helper.get_attribute_value(one)) for one in node.attribute if one.name == name), default)


def _offset_blocks(reader: _Reader, node: NodeProto, codes_name: str, scales_name: str) -> StoredWeight:
    """MatMulNBits' and GatherBlockQuantized's: unsigned codes around a zero point, scales [N, K / block]."""
    bits, block = _attribute(node, "bits", 4), _attribute(node, "block_size", 32)
    codes, scales = reader.array(codes_name), reader.array(scales_name)
    num_rows = codes.shape[0]
    codes, scales = codes.reshape(num_rows, -1), scales.reshape(num_rows, -1)
    shape = (num_rows, codes.shape[1] * 8 // bits)

    def read(start: int, stop: int) -> F32:
        unsigned: npt.NDArray[np.uint8] = np.asarray(codes[start:stop])
        if bits == 4:
            unsigned = np.stack([unsigned & np.uint8(15), unsigned >> np.uint8(4)], axis=-1).reshape(stop - start, -1)
        signed = (unsigned.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
        return dequantize_rows(signed, scales[start:stop].astype(np.float32))

    return StoredWeight(f"int{bits} block {block}", shape, read)


def _columns(reader: _Reader, _node: NodeProto, codes_name: str, scales_name: str) -> StoredWeight:
    """MatMulIntegerToFloat's: codes [K, N] and one scale per column."""
    codes, scales = reader.array(codes_name), reader.array(scales_name)

    def read(start: int, stop: int) -> F32:
        values: F32 = codes[:, start:stop].T * scales[start:stop, np.newaxis]
        return values

    return StoredWeight("int8 per column", (codes.shape[1], codes.shape[0]), read)


def _dequantized(reader: _Reader, node: NodeProto, codes_name: str, scales_name: str) -> StoredWeight:
    """DequantizeLinear's, by what the codes are."""
    kind = reader.type_of(codes_name)
    if kind == TensorProto.FLOAT8E4M3FN:
        return _fp8(reader, codes_name, scales_name)
    if kind == TensorProto.FLOAT4E2M1:
        return _nvfp4(reader, node, codes_name, scales_name)
    return _integer_blocks(reader, node, codes_name, scales_name)


def _fp8(reader: _Reader, codes_name: str, scales_name: str) -> StoredWeight:
    """E4M3 codes [K, N] and a scale per column."""
    codes, scales = reader.array(codes_name), reader.array(scales_name)

    def read(start: int, stop: int) -> F32:
        return float_codes.dequantize_fp8(codes[:, start:stop].T, scales[start:stop])

    return StoredWeight("fp8 per channel", (codes.shape[1], codes.shape[0]), read)


def _nvfp4(reader: _Reader, node: NodeProto, codes_name: str, scales_name: str) -> StoredWeight:
    """E2M1 codes [K, N], E4M3 scales [K / 16, N] and one more of the matrix, multiplied in the graph's type."""
    (num_in, num_out), nibbles = reader.shape(codes_name), reader.array(codes_name)
    scales = reader.array(scales_name)
    dtype = helper.tensor_dtype_to_np_dtype(_attribute(reader.makers[node.input[1]], "output_dtype", TensorProto.FLOAT))
    matrix_scale = float(reader.array(_without_role(codes_name) + ".matrix_scale"))

    def read(start: int, stop: int) -> F32:
        whole = _unpacked(nibbles, num_in, num_out)[:, start:stop]
        codes = np.ascontiguousarray(whole.T).view(ml_dtypes.float4_e2m1fn)
        return float_codes.dequantize_nvfp4(codes, scales[:, start:stop].T, matrix_scale, dtype)

    return StoredWeight(f"nvfp4 block {float_codes.NVFP4_BLOCK}", (num_out, num_in), read)


def _unpacked(pairs: npt.NDArray[Any], num_in: int, num_out: int) -> npt.NDArray[np.uint8]:
    """Two values of 4 bits per byte -> one per byte, uint8 [K, N]."""
    values = np.stack([pairs & np.uint8(15), pairs >> np.uint8(4)], axis=-1).reshape(-1)
    return values[: num_in * num_out].reshape(num_in, num_out)


def _integer_blocks(reader: _Reader, node: NodeProto, codes_name: str, scales_name: str) -> StoredWeight:
    """Codes [K, N] with scales [K / block, N], both along the first axis."""
    block, (num_in, num_out) = _attribute(node, "block_size", 0), reader.shape(codes_name)
    is_int4 = reader.type_of(codes_name) == TensorProto.INT4
    codes, scales = reader.array(codes_name), reader.array(scales_name)

    def read(start: int, stop: int) -> F32:
        if is_int4:
            whole = _unpacked(codes, num_in, num_out)
            signed = ((whole[:, start:stop] ^ np.uint8(8)).astype(np.int8) - np.int8(8)).T
        else:
            signed = codes[:, start:stop].T
        return dequantize_rows(np.ascontiguousarray(signed), scales[:, start:stop].T.astype(np.float32))

    return StoredWeight(f"int{4 if is_int4 else 8} block {block}", (num_out, num_in), read)


def _right_side(reader: _Reader, _node: NodeProto, name: str, _scales_name: str) -> StoredWeight:
    """MatMul's, [K, N]."""
    values = reader.array(name)

    def read(start: int, stop: int) -> F32:
        return np.asarray(values[:, start:stop].T, np.float32)

    return StoredWeight(values.dtype.name, (values.shape[1], values.shape[0]), read)


def _plain(reader: _Reader, name: str) -> StoredWeight:
    values = reader.array(name)
    return StoredWeight(
        values.dtype.name,
        values.shape,
        lambda start, stop: np.asarray(values[start:stop] if values.shape else values, np.float32),
    )


def _without_role(name: str) -> str:
    return next((name.removesuffix(role) for role in _ROLES if name.endswith(role)), name)


_FORMS: dict[str, Callable[[_Reader, NodeProto, str, str], StoredWeight]] = {
    "MatMulNBits": _offset_blocks,
    "GatherBlockQuantized": _offset_blocks,
    "MatMulIntegerToFloat": _columns,
    "DequantizeLinear": _dequantized,
    "MatMul": _right_side,
}
