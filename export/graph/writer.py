"""Writes one ONNX graph: nodes in order, initializer bytes streamed at once into one external data file.

Memory is what the caller holds of a single tensor, never the model. Knows ONNX's containers and no operator.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper
from runtime.package import dtypes
from runtime.unwritten import why_unwritten

from export.errors import ExportError

GRAPH_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"

_ALIGNMENT = 4096  # a memory page, so that runtimes can map a tensor straight from the file
_INLINE_BYTES = 1024
_PACKED = frozenset({np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.float4_e2m1fn)})

Dim = int | str
DType = np.dtype[Any] | type[np.generic]
Attribute = int | float | str | Sequence[int]


class GraphWriter:
    """Collects a graph in ``folder``. Use as a context manager; ``save`` writes ``model.onnx`` last."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains: set[str] = set()
        self._data = (folder / DATA_FILE).open("wb")

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self._data.close()  # after a failed write its buffer fails again, which would hide the first error

    @property
    def num_nodes(self) -> int:
        """Nodes so far."""
        return len(self._nodes)

    def input(self, name: str, dtype: DType, shape: Sequence[Dim]) -> str:
        """Declare a graph input; text dimensions are symbolic."""
        self._inputs.append(helper.make_tensor_value_info(name, _onnx_type(dtype), list(shape)))
        return name

    def output(self, name: str, dtype: DType, shape: Sequence[Dim]) -> None:
        """Declare a graph output; a node must make it."""
        self._outputs.append(helper.make_tensor_value_info(name, _onnx_type(dtype), list(shape)))

    def node(
        self, op: str, inputs: Sequence[str], outputs: str | Sequence[str], domain: str = "", **attributes: Attribute
    ) -> str:
        """Append a node and return its first output. An empty name leaves an optional input or output out."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        label = next(name for name in names if name)
        self._nodes.append(
            helper.make_node(op, list(inputs), names, name=label, domain=domain, **dict[str, Any](attributes))
        )
        self._domains.add(domain)
        return names[0]

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """An initializer from memory, stored once per name; up to 1 KiB inside the graph, else in the data file."""
        if name in self._initializers:
            return name
        if value.nbytes > _INLINE_BYTES:
            return self.stream(name, value.dtype, value.shape, [value])
        proto = TensorProto(name=name, data_type=_onnx_type(value.dtype), dims=value.shape)
        proto.raw_data = np.ascontiguousarray(value).tobytes()
        self._initializers[name] = proto
        return name

    def stream(self, name: str, dtype: DType, shape: Sequence[int], pieces: Iterable[np.ndarray[Any, Any]]) -> str:
        """An initializer whose bytes are ``pieces`` in order; types of 4 bits come packed, two to a uint8.

        Raises ExportError when the disk is full.
        """
        is_packed = np.dtype(dtype) in _PACKED
        stored = np.dtype(np.uint8 if is_packed else dtype)
        wanted = int(np.prod(shape)) * stored.itemsize // (2 if is_packed else 1)
        try:
            start = -(-self._data.tell() // _ALIGNMENT) * _ALIGNMENT
            self._data.seek(start)
            for piece in pieces:
                self._data.write(np.ascontiguousarray(piece, dtype=stored).view(np.uint8).data)
            written = self._data.tell() - start
        except OSError as error:
            path = self._folder / DATA_FILE
            raise ExportError(f"cannot write the graph's data, {path}: {why_unwritten(error, path)}") from error
        if written != wanted:
            raise ExportError(f"initializer {name!r} got {written} bytes, its shape {list(shape)} needs {wanted}")
        self._initializers[name] = _external(name, np.dtype(dtype), shape, start, written)
        return name

    def alias(self, name: str, of: str, shape: Sequence[int]) -> str:
        """A second initializer over the very bytes of ``of`` in another shape: stored, mapped and paged in once."""
        source = self._initializers[of]
        place = {entry.key: entry.value for entry in source.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(source.data_type)
        self._initializers[name] = _external(name, np.dtype(dtype), shape, int(place["offset"]), int(place["length"]))
        return name

    def save(self, opset: int, *, is_scratch: bool = False) -> None:
        """Write ``model.onnx``; inputs that no node reads are left out. Raises ExportError when the disk is full.

        Unless it ``is_scratch``, the data has reached the disk and not only the kernel when this returns.
        """
        read = {name for node in self._nodes for name in node.input}
        inputs = [value for value in self._inputs if value.name in read]
        graph = helper.make_graph(self._nodes, "decoder", inputs, self._outputs, list(self._initializers.values()))
        imports = [helper.make_opsetid("", opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in sorted(self._domains - {""})]
        ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
        model = helper.make_model(graph, opset_imports=imports, producer_name="powertrain", ir_version=ir_version)
        try:
            self._data.flush()
            if not is_scratch:
                os.fsync(self._data.fileno())
            (self._folder / GRAPH_FILE).write_bytes(model.SerializeToString())
        except OSError as error:
            path = self._folder / GRAPH_FILE
            raise ExportError(f"cannot write the graph, {path}: {why_unwritten(error, path)}") from error


def _onnx_type(dtype: DType) -> int:
    return dtypes.BY_NAME[np.dtype(dtype).name].onnx_number


def _external(name: str, dtype: np.dtype[Any], shape: Sequence[int], offset: int, length: int) -> TensorProto:
    proto = TensorProto(name=name, data_type=_onnx_type(dtype), dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", DATA_FILE), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)
    return proto
