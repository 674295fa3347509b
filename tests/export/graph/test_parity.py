"""Every architecture: transformers' logits, the NumPy reference and the float32 graph agree, however tokens arrive."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from export.checkpoint.checkpoint import check_shapes
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.source.hf.checkpoint import HfCheckpoint
from tests.export.graph_runs import GraphRun, write_graph
from tests.export.reference import reference_logits
from tests.export.tiny_models import ARCHITECTURES, tiny_input_ids, write_tiny_folder
from tests.paths import GOLDEN

LOGITS = GOLDEN / "logits.npz"
FLOAT32 = PrecisionPlan(WeightFormat())
TOLERANCE = 1e-3  # of logits up to 13; what is seen is below 2e-5


@cache
def golden_logits() -> dict[str, npt.NDArray[np.float32]]:
    with np.load(LOGITS) as file:
        return dict(file)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, HfCheckpoint, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = HfCheckpoint(write_tiny_folder(folder / "hf", request.param))
    check_shapes(checkpoint)
    return request.param, checkpoint, write_graph(checkpoint, FLOAT32, folder / "ort")


def test_the_reference_equals_transformers(case: tuple[str, HfCheckpoint, Path]) -> None:
    name, checkpoint, _ = case
    difference = np.abs(reference_logits(checkpoint, tiny_input_ids()) - golden_logits()[name]).max()
    assert difference < TOLERANCE


def test_a_whole_prefill_equals_transformers(case: tuple[str, HfCheckpoint, Path]) -> None:
    name, checkpoint, graph = case
    logits = GraphRun(graph, checkpoint.spec)(tiny_input_ids()[None], [0])
    assert np.abs(logits - golden_logits()[name]).max() < TOLERANCE


def test_chunks_and_single_tokens_equal_transformers(case: tuple[str, HfCheckpoint, Path]) -> None:
    name, checkpoint, graph = case
    ids, run = tiny_input_ids(), GraphRun(graph, checkpoint.spec)
    parts = [(0, 10), (10, 11), (11, 19), (19, 20), (20, 24)]
    logits = np.concatenate([run(ids[None, start:stop], [start]) for start, stop in parts])
    assert np.abs(logits - golden_logits()[name]).max() < TOLERANCE


def test_a_ragged_batch_equals_transformers(case: tuple[str, HfCheckpoint, Path]) -> None:
    """Three rows of one sequence, 3, 11 and 20 tokens in, decode one token each in a single call."""
    name, checkpoint, graph = case
    ids, starts = tiny_input_ids(), [3, 11, 20]
    rows = []
    for start in starts:
        alone = GraphRun(graph, checkpoint.spec)
        assert alone(ids[None, :start], [0], indices=[]).shape == (0, checkpoint.spec.vocab_size)
        rows.append(alone.cache)
    batch = GraphRun(graph, checkpoint.spec, rows=3)
    batch.cache = {key: np.concatenate([row[key] for row in rows]) for key in batch.cache}
    logits = batch(ids[starts][:, None], starts)
    assert np.abs(logits - golden_logits()[name][starts]).max() < TOLERANCE


def test_chosen_rows_are_those_of_every_row(case: tuple[str, HfCheckpoint, Path]) -> None:
    """``logits_indices`` picks rows: in any order, several times, and none."""
    name, checkpoint, graph = case
    logits = GraphRun(graph, checkpoint.spec)(tiny_input_ids()[None], [0], indices=[23, 0, 5, 5])
    assert np.abs(logits - golden_logits()[name][[23, 0, 5, 5]]).max() < TOLERANCE
