"""An int8 cache: near the float graph, the same however the prompt is cut, and a quarter of the bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.precision import EXACT
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE
from export.measure.kv_scales import measure_kv_scales
from export.measure.twin import WholeTwin
from export.progress import SilentReporter
from export.source.hf.checkpoint import HfCheckpoint
from runtime.package.manifest import ModelShape
from tests.export.graph_runs import GraphRun
from tests.export.tiny_models import tiny_input_ids, write_tiny_folder


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[HfCheckpoint, Path, Path]:
    root = tmp_path_factory.mktemp("kv")
    checkpoint = HfCheckpoint(write_tiny_folder(root / "source", "llama"))
    spec = checkpoint.spec
    shape = ModelShape(spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.vocab_size)
    float_info = write_ort_graph(checkpoint, EXACT, 64, root / "float", SilentReporter())
    twin = WholeTwin(checkpoint, 64, shape, root / "float")
    scales = measure_kv_scales(twin, [tiny_input_ids()], shape, SilentReporter())
    info = write_ort_graph(checkpoint, EXACT, 64, root / "int8", SilentReporter(), kv_scales=scales)
    assert (float_info.kv_dtype, info.kv_dtype) == ("float32", "int8")
    return checkpoint, root / "float" / GRAPH_FILE, root / "int8" / GRAPH_FILE


def test_scales_map_the_largest_magnitude_to_code_127(graphs: tuple[HfCheckpoint, Path, Path]) -> None:
    checkpoint, float_graph, int8_graph = graphs
    exact, coded = (GraphRun(graph, checkpoint.spec) for graph in (float_graph, int8_graph))
    for run in (exact, coded):
        run(tiny_input_ids()[None, :], [0])
    for name, codes in coded.cache.items():
        assert codes.dtype == np.int8
        if ".0." not in name:
            continue  # later layers read the first one's rounding
        values = exact.cache[name][0]  # [H, S, D]
        assert np.abs(codes[0]).max(axis=1).min() == 127  # every channel uses its range on its own calibration text
        scales = np.abs(values).max(axis=1, keepdims=True) / 127
        assert np.abs(codes[0] * scales - values).max() <= scales.max() * 0.51


def test_logits_are_near_the_float_graph_and_equal_in_any_chunking(graphs: tuple[HfCheckpoint, Path, Path]) -> None:
    checkpoint, float_graph, int8_graph = graphs
    ids = tiny_input_ids()[None, :]
    exact = GraphRun(float_graph, checkpoint.spec)(ids, [0])
    whole = GraphRun(int8_graph, checkpoint.spec)(ids, [0])
    assert 0 < np.abs(whole - exact).max() < 0.1 * np.abs(exact).max()
    chunked = GraphRun(int8_graph, checkpoint.spec)
    parts = [chunked(ids[:, start:stop], [start]) for start, stop in ((0, 7), (7, 9), (9, ids.shape[1]))]
    assert np.array_equal(np.concatenate(parts), whole)
