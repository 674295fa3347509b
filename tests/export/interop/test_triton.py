"""The repository of a package for Triton: what its configuration says, against the graph beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from export.errors import ExportError
from export.interop.folder import convert
from export.interop.triton import triton_config
from runtime.package.manifest import Package
from tests.export.random_checkpoint import ARCHITECTURES
from tests.export.tiny_package import write_package

SPEC = ARCHITECTURES["llama"]
CONFIG = """\
name: "tiny"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 0
input { name: "input_ids" data_type: TYPE_INT64 dims: [ -1, -1 ] }
input { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1, -1 ] }
input { name: "past_key_values.0.key" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
input { name: "past_key_values.0.value" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
input { name: "past_key_values.1.key" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
input { name: "past_key_values.1.value" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
output { name: "logits" data_type: TYPE_FP32 dims: [ -1, 1, 97 ] }
output { name: "present.0.key" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
output { name: "present.0.value" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
output { name: "present.1.key" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
output { name: "present.1.value" data_type: TYPE_FP32 dims: [ -1, 2, -1, 16 ] }
instance_group { count: 1 kind: KIND_CPU }
version_policy { latest { num_versions: 1 } }
"""


def test_a_client_that_carries_the_caches_gets_each_next_token(tmp_path: Path) -> None:
    """Caches as long as the whole conversation, or as what is in them: the logits are those of one call."""
    package = write_package(tmp_path / "tiny", with_trt=False)
    convert(package, "triton", tmp_path / "repository")
    home = tmp_path / "repository" / "tiny"
    assert (home / "config.pbtxt").read_text() == CONFIG
    assert sorted(path.name for path in (home / "1").iterdir()) == ["model.onnx", "model.onnx.data"]
    session = onnxruntime.InferenceSession(str(home / "1/model.onnx"), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    ids = np.array([[5, 9, 33, 60, 61]], np.int64)
    expected = None
    for pieces, rows in (([5], 16), ([3, 1, 1], 16), ([3, 1, 1], 0)):
        caches = [np.zeros((1, 2, rows, 16), np.float32) for _ in range(4)]
        done = 0
        for length in pieces:
            given = {"input_ids": ids[:, done : done + length], "attention_mask": np.ones((1, done + length), np.int64)}
            pasts = [f"past_key_values.{i}.{kind}" for i in (0, 1) for kind in ("key", "value")]
            logits, *caches = session.run(names, given | dict(zip(pasts, caches, strict=True)))
            done += length
        expected = logits if expected is None else expected
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_half_precision_is_a_gpus(tmp_path: Path) -> None:
    graph = onnx.parser.parse_graph("g (float16[B, 2, S, 4] a) => (bfloat16[B] b) { b = Cast<to=16>(a) }")
    assert triton_config("m", graph, on_cpu=False).splitlines()[4:7] == [
        'input { name: "a" data_type: TYPE_FP16 dims: [ -1, 2, -1, 4 ] }',
        'output { name: "b" data_type: TYPE_BF16 dims: [ -1 ] }',
        "instance_group { count: 1 kind: KIND_GPU }",
    ]
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.COMPLEX64
    with pytest.raises(ExportError, match="b is in complex64, for which Triton has no type"):
        triton_config("m", graph, on_cpu=True)


def test_a_package_of_plans_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "tiny", with_trt=False)
    graphs = {"trt": package.manifest.graphs["ort"]}
    other = Package(package.root, msgspec.structs.replace(package.manifest, graphs=graphs))
    with pytest.raises(ExportError, match=r"the only one for Triton's ONNX Runtime backend; a trt graph and its plans"):
        convert(other, "triton", tmp_path / "repository")
