"""The ``trt`` dialect: its float32 twin gives the ``ort`` dialect's logits, and its quantized codes mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import trt_plan
from export.checkpoint.quantize import dequantize_rows, quantize_rows
from export.errors import UnsupportedError
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.trt.weights import pack_int4, quantize_for
from export.graph.writer import GraphWriter
from runtime.package.graph_profiles import slot_rows
from tests.export.random_checkpoint import (
    ARCHITECTURES,
    CAPACITY,
    RandomCheckpoint,
    lazy_from_array,
    write_ort,
    write_trt,
)

SPECS = sorted(ARCHITECTURES)


class Graph:
    """A graph with a cache of its own: ``run`` appends tokens at given positions and returns every row's logits."""

    def __init__(self, path: Path, kv: tuple[int, int], rows: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        # Else DequantizeLinear and MatMul become MatMulNBits, which also rounds activations.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = ort.InferenceSession(str(path), options)
        self.names = [node.name for node in self.session.get_outputs()]
        shape = (rows, kv[0], CAPACITY, kv[1])
        self.cache = {name: np.zeros(shape, np.float32) for name in self.input_names() if name.startswith("past")}

    def input_names(self) -> list[str]:
        return [node.name for node in self.session.get_inputs()]

    def run(self, ids: list[list[int]], starts: list[int]) -> NDArray[np.float32]:
        tokens = np.array(ids, np.int64)
        last = np.array(starts, np.int64) + tokens.shape[1] - 1
        feeds = {
            "input_ids": tokens,
            "logits_indices": np.arange(tokens.size),
            "write_indices": np.array(starts, np.int64),
            "seqlens_k": last.astype(np.int32),
            "total_sequence_length": np.array(last.max() + 1, np.int32),
        }
        given = {name: feeds[name] for name in self.input_names() if name in feeds}
        outputs = dict(zip(self.names, self.session.run(None, given | self.cache), strict=True))
        self.cache = {name: outputs[name.replace("past_key_values", "present")] for name in self.cache}
        return np.asarray(outputs["logits"], np.float32)


@pytest.mark.parametrize("name", SPECS)
def test_the_float32_twin_gives_the_ort_graphs_logits(name: str, tmp_path: Path) -> None:
    """A prompt in chunks of 13, 1 and 9 tokens, longer than every window, then ragged decode steps of two rows."""
    spec = ARCHITECTURES[name]
    kv = (spec.num_kv_heads, spec.head_dim)
    paths = (write_ort(spec, tmp_path / "ort"), write_trt(spec, tmp_path / "trt"))
    ids = np.random.default_rng(3).integers(0, spec.vocab_size, 40).tolist()
    ours, theirs = (Graph(path, kv, 1) for path in paths)
    for begin, end in ((0, 13), (13, 14), (14, 23)):
        expected = theirs.run([ids[begin:end]], [begin])
        assert np.abs(expected).max() > 1.0
        np.testing.assert_allclose(ours.run([ids[begin:end]], [begin]), expected, atol=1e-4)
    ours, theirs = (Graph(path, kv, 2) for path in paths)
    lengths = [0, 7]  # the first row begins while the second is seven tokens ahead; rows after a start are void
    for graph in (ours, theirs):
        for position in range(7):
            graph.run([[0], [ids[position]]], [0, position])
    for step in range(12):
        starts = [lengths[0] + step, lengths[1] + step]
        rows = [[ids[starts[0]]], [ids[starts[1]]]]
        np.testing.assert_allclose(ours.run(rows, starts), theirs.run(rows, starts), atol=1e-4)


@dataclass(frozen=True)
class RoundedCheckpoint(RandomCheckpoint):
    """The same weights after a trip through their integer codes; the embedding's table stays as it is."""

    bits: int = 8
    block: int = 32

    def tensor(self, name: str) -> LazyTensor:
        exact = super().tensor(name)
        if len(exact.shape) == 1 or name == "embedding":
            return exact
        codes, scales = quantize_rows(exact.numpy(), self.bits, self.block)
        return lazy_from_array(name, dequantize_rows(codes, scales))


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (8, 64), (4, 32), (4, 16)])
def test_codes_in_the_graph_are_the_weights_that_they_stand_for(bits: int, block: int, tmp_path: Path) -> None:
    spec = ARCHITECTURES["llama3"]  # its head is not tied
    kv = (spec.num_kv_heads, spec.head_dim)
    quantized = write_trt(spec, tmp_path / "codes", PrecisionPlan(WeightFormat(bits, block), "float32"))
    with GraphWriter(tmp_path / "floats") as writer:
        dialect = TrtDialect(spec, writer, PrecisionPlan(WeightFormat()), CAPACITY)
        emit_decoder(RoundedCheckpoint(spec, bits=bits, block=block), dialect)
        writer.save(OPSET)
    ids = [np.random.default_rng(4).integers(0, spec.vocab_size, 30).tolist()]
    logits = Graph(quantized, kv, 1).run(ids, [0])
    rounded = Graph(tmp_path / "floats" / "model.onnx", kv, 1).run(ids, [0])
    exact = Graph(write_trt(spec, tmp_path / "exact"), kv, 1).run(ids, [0])
    np.testing.assert_allclose(logits, rounded, atol=1e-4)
    assert np.abs(logits - exact).max() > 0.005


def test_half_precision_scales_cost_no_accuracy_of_their_own() -> None:
    weights = np.random.default_rng(5).standard_normal((8, 64)).astype(np.float32) * np.float32(0.02)
    weights[0] = 0.0
    weights[1] *= 1e-6  # scales below what float16 can hold
    for dtype in (np.float16, ml_dtypes.bfloat16):
        codes, scales = quantize_for(weights, 8, 32, dtype)
        assert (scales.astype(np.float32) > 0).all()
        restored = (codes.reshape(8, 2, 32) * scales.astype(np.float32)[..., None]).reshape(8, 64)
        steps = np.repeat(scales.astype(np.float32), 32, axis=1)
        clipped = np.abs(weights) > steps * 127
        assert (np.abs(restored - weights) <= steps * 0.5001)[~clipped].all()
        assert clipped.mean() < 0.02


def test_int4_codes_are_packed_low_half_first() -> None:
    assert pack_int4(np.array([[1, -1], [-8, 7]], np.int8)).tolist() == [0xF1, 0x78]


def test_a_tied_head_takes_the_embeddings_place_in_the_plan(tmp_path: Path) -> None:
    """int4 everywhere, 8 bits for the embedding: the head's matrix has 8, the gathered table stays float."""
    plan = PrecisionPlan(WeightFormat(4, 32), "float16", {"embedding": WeightFormat(8, 32)})
    path = write_trt(ARCHITECTURES["llama"], tmp_path, plan)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    assert types["head.codes"] == onnx.TensorProto.INT8
    assert types["layers.0.qkv.codes"] == onnx.TensorProto.INT4
    assert types["embedding.weight"] == onnx.TensorProto.FLOAT16


def test_only_standard_operators_are_used(tmp_path: Path) -> None:
    for name in SPECS:
        model = onnx.load(write_trt(ARCHITECTURES[name], tmp_path / name, "int4"), load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 24)]
        onnx.checker.check_model(str(tmp_path / name / "model.onnx"), full_check=True)


def test_a_cache_longer_than_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a cache of 257 tokens is not possible; the model supports 1 to 256"):
        write_trt(ARCHITECTURES["llama"], tmp_path, max_model_len=257)


def test_plan_and_capacity_of_a_package() -> None:
    assert trt_plan(PrecisionPlan(WeightFormat(8, 64), "float32")).float_type == "float16"
    assert trt_plan(PrecisionPlan(WeightFormat(), "float32")).float_type == "float32"
    mixed = PrecisionPlan(WeightFormat(), "float32", {"layers.0.down": WeightFormat(8, 64)})
    assert trt_plan(mixed).float_type == "float16"
    assert trt_plan(PrecisionPlan(WeightFormat(4, 32), "bfloat16")).float_type == "bfloat16"
    assert [slot_rows(length) for length in (8192, 1000, 960, 50)] == [8192, 1024, 960, 64]
