"""Writes a package's ``ort`` graph as a Triton model repository: ``NAME/config.pbtxt`` and ``NAME/1/model.onnx``.

Nothing is batched and no state is kept: caches are inputs and outputs like any other. The fields are those of Triton's
``model_config.proto``. Knows no graph's inside.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto
from runtime.package import manifest as package

from export.errors import UnsupportedError
from export.graph.writer import GRAPH_FILE
from export.interop.package_parts import copy_texts, masked_ort_graph, write_graph_and_data

CONFIG_FILE = "config.pbtxt"

_VERSION = "1"
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT64: "TYPE_INT64",
}


def write_triton_repository(source: package.Package, folder: Path) -> None:
    """Fill the empty ``folder`` with a repository of one model, named as the package.

    Raises UnsupportedError, naming it, for what Triton cannot take.
    """
    info, model = masked_ort_graph(source, "Triton's ONNX Runtime backend")
    home = folder / source.manifest.name
    (home / _VERSION).mkdir(parents=True)
    write_graph_and_data(source, info, model, home / _VERSION)
    copy_texts(source, home)
    text = triton_config(source.manifest.name, model.graph, on_cpu="cpu" in info.providers)
    (home / CONFIG_FILE).write_text(text, encoding="utf-8")


def triton_config(name: str, graph: onnx.GraphProto, *, on_cpu: bool) -> str:
    """``config.pbtxt`` of a graph: protobuf's text form of Triton's ModelConfig."""
    kind = "KIND_CPU" if on_cpu else "KIND_GPU"
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f'default_model_filename: "{GRAPH_FILE}"',
        "max_batch_size: 0",
        *(_tensor("input", value) for value in graph.input),
        *(_tensor("output", value) for value in graph.output),
        f"instance_group {{ count: 1 kind: {kind} }}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    return "\n".join(lines) + "\n"


def _tensor(field: str, value: onnx.ValueInfoProto) -> str:
    """One input or output; a dimension that is open in the graph is -1."""
    tensor = value.type.tensor_type
    if tensor.elem_type not in _TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise UnsupportedError(f"{value.name} is in {kind}, for which Triton has no type")
    dims = ", ".join(str(dim.dim_value or -1) for dim in tensor.shape.dim)
    return f'{field} {{ name: "{value.name}" data_type: {_TYPES[tensor.elem_type]} dims: [ {dims} ] }}'
