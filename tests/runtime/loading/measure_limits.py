"""What rounding and faults cost in the self-test's figures, on the default model's weights: where its limits come from.

``python -m tests.runtime.loading.measure_limits int8 --rounding float16`` writes the ``trt`` graph of the weights that
an int8 package stores, rounds every value in it to float16, and runs the self-test's script on it in ONNX Runtime.
``--fault NAME`` puts one fault before it. Takes minutes: this graph's attention is slow on a CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, shape_inference

from export.checkpoint.precision import EXACT
from export.checkpoint.precision_policy import plan_from_name, trt_plan
from export.checkpoint.spec import DecoderSpec
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.trt.stored import StoredCheckpoint
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.measure.gauge import model_shape
from export.measure.golden import golden_rows, golden_texts
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import load_recipe
from runtime.loading.self_test import compare_with_golden
from runtime.session.gpu.ort.providers import graph_id_entry
from runtime.session.gpu.ort.runner import OrtRunner, Provider
from runtime.session.gpu.static_session import StaticSession
from runtime.session.session import FloatArray, Int64Array, decode_logits
from tests.around_session import AroundSession
from tests.host_device import HostDevice
from tests.paths import MODELS

_CAPACITY = 4096
_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
_MOVES = {"Reshape", "Transpose", "Gather", "Split", "TensorScatter"}
"""Operators that move numbers and round none."""
FAULTS = (
    "a chunk begins one row early",
    "decode is one row late",
    "decode is one row early",
    "decode sees the first row only",
    "a slot is not moved",
    "a moved slot lacks its last row",
)


@dataclass
class Faulty(AroundSession):
    """A session with one fault."""

    fault: str

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        begin = max(0, start - 1) if self.fault == "a chunk begins one row early" else start
        return self.inner.prefill(slot, token_ids, begin, num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        shift = {"decode is one row late": 1, "decode is one row early": -1}.get(self.fault, 0)
        moved = np.minimum(positions + shift, _CAPACITY - 1)
        return decode_logits(
            self.inner, first_slot, token_ids, moved * (self.fault != "decode sees the first row only")
        )

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        if self.fault != "a slot is not moved":
            lost = self.fault == "a moved slot lacks its last row"
            self.inner.copy_slot(source, target, num_tokens - lost, start)


def rounded(graph: Path, element_type: int) -> Path:
    """``graph`` with every computed float32 value rounded to another type and back, beside itself."""
    model = onnx.load(str(graph), load_external_data=False)
    inferred = shape_inference.infer_shapes(model).graph
    floats = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    known = {"logits": "logits.exact"}
    nodes = []
    for node in model.graph.node:
        node.input[:] = [known.get(name, name) for name in node.input]
        node.output[:] = ["logits.exact" if name == "logits" else name for name in node.output]
        nodes.append(node)
        for name in node.output:
            if name == "logits.exact" or (name in floats and node.op_type not in _MOVES):
                back = "logits" if name == "logits.exact" else name + ".rounded"
                nodes.append(helper.make_node("Cast", [name], [name + ".short"], to=element_type))
                nodes.append(helper.make_node("Cast", [name + ".short"], [back], to=TensorProto.FLOAT))
                known[name] = back
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = graph.with_name("rounded.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def measure(precision: str, rounding: str | None, fault: str) -> str:
    """The self-test's line."""
    recipe = msgspec.structs.replace(load_recipe(MODELS / "smollm2-135m-instruct.toml"), precision=precision)
    checkpoint = open_source(recipe, MODELS, SilentReporter()).checkpoint
    stored = StoredCheckpoint(checkpoint, trt_plan(plan_from_name(precision)))
    texts = golden_texts(checkpoint.text_files().tokenizer_json, checkpoint.spec.vocab_size, _CAPACITY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        golden = golden_rows(stored, texts, _CAPACITY, folder / "golden", is_whole=True, reporter=SilentReporter())
        with GraphWriter(folder / "trt") as writer:
            emit_decoder(stored, TrtDialect(stored.spec, writer, EXACT, _CAPACITY))
            writer.save(OPSET, is_scratch=True)
        graph = folder / "trt" / GRAPH_FILE
        session = _session(rounded(graph, _TYPES[rounding]) if rounding else graph, checkpoint.spec)
        line = compare_with_golden(Faulty(session, fault), golden).explain()
        session.close()
    return line


def _session(graph: Path, spec: DecoderSpec) -> StaticSession:
    def make(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # which would undo the rounding
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    device, shape = HostDevice(), model_shape(spec)
    provider = Provider("ort-cpu", "cpu", make, graph_id_entry)
    runner = OrtRunner(graph, provider, device, shape, max_slots=4, prefill_tokens=512, capacity=_CAPACITY)
    return StaticSession("ort-cpu", runner, device, shape, 4)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precision", choices=["fp32", "fp16", "bf16", "int8", "int4", "fp8", "nvfp4"])
    parser.add_argument("--rounding", choices=sorted(_TYPES))
    parser.add_argument("--fault", choices=FAULTS, default="")
    chosen = parser.parse_args()
    print(measure(chosen.precision, chosen.rounding, chosen.fault))
