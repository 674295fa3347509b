"""The scale of q.k folded into the queries, and the kernel that ONNX Runtime is steered to: the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.precision import EXACT, WeightFormat
from export.checkpoint.precision_policy import plan_from_name
from export.checkpoint.quantize import I8
from export.checkpoint.quantized_tensor import quantized_tensor
from export.graph.attention_scale import with_unit_attention_scale
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.progress import SilentReporter
from export.source.hf.checkpoint import HfCheckpoint
from tests.export.graph.test_parity import TOLERANCE, golden_logits
from tests.export.graph_runs import GraphRun
from tests.export.reference import reference_logits
from tests.export.tiny_models import ARCHITECTURES, tiny_input_ids, write_tiny_folder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_computes_the_same(name: str, tmp_path: Path) -> None:
    checkpoint = HfCheckpoint(write_tiny_folder(tmp_path / "hf", name))
    folded = with_unit_attention_scale(checkpoint)
    assert folded.spec.softmax_scale == 1.0
    golden = golden_logits()[name]
    assert np.abs(reference_logits(folded, tiny_input_ids()) - golden).max() < TOLERANCE
    write_ort_graph(checkpoint, EXACT, 64, tmp_path / "ort", SilentReporter())
    run, ids = GraphRun(tmp_path / "ort" / GRAPH_FILE, checkpoint.spec), tiny_input_ids()
    parts = [run(ids[None, start:stop], [start]) for start, stop in ((0, 10), (10, 11), (11, 24))]
    assert np.abs(np.concatenate(parts) - golden).max() < TOLERANCE


@pytest.mark.parametrize(
    ("precision", "max_model_len", "is_steered"), [("fp32", 64, True), ("fp32", 8_000_000, False), ("fp16", 64, False)]
)
def test_only_float32_graphs_with_room_for_the_scores_are_steered(
    precision: str, max_model_len: int, is_steered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 million tokens times 256 of a chunk times 4 heads are more scores than fit 512 MiB."""
    checkpoint = HfCheckpoint(write_tiny_folder(tmp_path / "hf", "llama"))
    tables = (np.zeros((1, checkpoint.spec.head_dim // 2), np.float32),) * 2
    monkeypatch.setattr("export.graph.ort.dialect.rope_tables", lambda *_: tables)  # not 8 million rows
    write_ort_graph(checkpoint, plan_from_name(precision), max_model_len, tmp_path / "ort", SilentReporter())
    graph = onnx.load(str(tmp_path / "ort" / GRAPH_FILE), load_external_data=False).graph
    nodes = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert {len(node.input) > 11 and node.input[11] != "" for node in nodes} == {is_steered}
    scales = [attribute.f for node in nodes for attribute in node.attribute if attribute.name == "scale"]
    assert scales == pytest.approx([checkpoint.spec.head_dim**-0.5 if precision == "fp16" else 1.0] * len(nodes))


def test_codes_that_are_to_be_kept_are_not_touched(tmp_path: Path) -> None:
    checkpoint = HfCheckpoint(write_tiny_folder(tmp_path, "llama"))

    class Quantized:
        spec = checkpoint.spec

        def tensor(self, name: str) -> LazyTensor:
            shape = checkpoint.tensor(name).shape

            def read(start: int, stop: int) -> tuple[I8, F32]:
                return np.zeros((stop - start, shape[1]), np.int8), np.ones((stop - start, 1), np.float32)

            return quantized_tensor(name, shape, WeightFormat(8, shape[1]), read)

    quantized: Any = Quantized()
    assert with_unit_attention_scale(quantized) is quantized
