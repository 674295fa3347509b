"""The float32 twin as one graph and layer by layer: the same values of every architecture, and the choice between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.checkpoint.explain import BASE_BYTES
from export.checkpoint.precision_policy import plan_from_name
from export.checkpoint.spec import DecoderSpec, LayerSpec
from export.errors import ExportError
from export.measure import layerwise
from export.measure.gauge import model_shape
from export.measure.layerwise import LayerwiseTwin
from export.measure.memory import TextSize, choose_way, layerwise_way, whole_way
from export.measure.quality import F32, I64
from export.measure.twin import WholeTwin, _PathRunner
from export.progress import SilentReporter
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, RandomCheckpoint

Twins = tuple[WholeTwin, LayerwiseTwin]

WINDOWS = [np.random.default_rng(i).integers(0, 97, length) for i, length in enumerate((40, 23, 2))]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """Both twins of each family: tied heads, softcaps, windows, norms before and after, of queries and keys, biases."""
    checkpoint, root = RandomCheckpoint(ARCHITECTURES[request.param]), tmp_path_factory.mktemp(request.param)
    whole = WholeTwin(checkpoint, CAPACITY, model_shape(checkpoint.spec), root / "whole")
    return whole, LayerwiseTwin(checkpoint, CAPACITY, root / "layer", SilentReporter())


@pytest.mark.parametrize("logits_bytes", [1, 4 * 97 * 63])
def test_windows_may_share_a_reading_of_the_head(
    logits_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, or the first two: the same bits as all at once."""
    twin = LayerwiseTwin(RandomCheckpoint(ARCHITECTURES["llama"]), CAPACITY, tmp_path / "layer", SilentReporter())
    together = list(twin.logits(WINDOWS))
    monkeypatch.setattr(layerwise, "LOGITS_BYTES", logits_bytes)
    for left, right in zip(together, twin.logits(WINDOWS), strict=True):
        assert np.array_equal(left, right)


def test_logits_are_the_same(twins: Twins) -> None:
    expected, found = (list(twin.logits(WINDOWS)) for twin in twins)
    for window, left, right in zip(WINDOWS, expected, found, strict=True):
        assert left.shape == right.shape == (len(window), 97)
        assert np.abs(left - right).max() < 1e-5 * np.abs(left).max()


def test_no_window_goes_through_the_whole_graph_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after its projections' inputs were asked for nor for logits asked for again; the bits are the same."""
    spec = ARCHITECTURES["llama"]
    fresh = WholeTwin(RandomCheckpoint(spec), CAPACITY, model_shape(spec), tmp_path / "fresh")
    expected = list(fresh.logits(WINDOWS))
    twin = WholeTwin(RandomCheckpoint(spec), CAPACITY, model_shape(spec), tmp_path / "twin")
    ran: list[int] = []
    values = _PathRunner.values

    def counted(runner: _PathRunner, names: Sequence[str], window: I64) -> list[F32]:
        ran.append(len(window))
        return values(runner, names, window)

    monkeypatch.setattr(_PathRunner, "values", counted)
    list(twin.projection_inputs(WINDOWS[::2]))
    for _ in range(2):
        for left, right in zip(expected, twin.logits(WINDOWS), strict=True):
            assert np.array_equal(left, right)
    assert ran == [len(WINDOWS[0]), len(WINDOWS[2]), len(WINDOWS[1])]


def test_layers_run_ahead_of_whoever_asks_for_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a thread; what fails there is told to who asks. The layers' memory is free when the head is opened."""
    spec = ARCHITECTURES["llama"]
    twin = WholeTwin(RandomCheckpoint(spec), CAPACITY, model_shape(spec), tmp_path / "twin")
    expected = list(twin.logits(WINDOWS))
    ahead = WholeTwin(RandomCheckpoint(spec), CAPACITY, model_shape(spec), tmp_path / "ahead")
    list(ahead.projection_inputs(WINDOWS[:1]))
    ahead.begin(WINDOWS)
    assert ahead._ahead is not None
    ahead._ahead.result()
    monkeypatch.setattr(_PathRunner, "values", None)  # nothing is left to run
    for left, right in zip(expected, ahead.logits(WINDOWS), strict=True):
        assert np.array_equal(left, right)
    assert ahead._layers is None
    ahead.begin([*WINDOWS, WINDOWS[0][:5]])
    with pytest.raises(TypeError):
        ahead.logits(WINDOWS)


def test_caches_are_the_same(twins: Twins) -> None:
    """One of each layer and window, in whatever order they come."""
    expected, found = ({(k, v.shape[1]): (v, w) for k, v, w in twin.caches(WINDOWS)} for twin in twins)
    assert found.keys() == expected.keys() == {(layer, len(window)) for layer in (0, 1) for window in WINDOWS}
    for key, pair in expected.items():
        for left, right in zip(pair, found[key], strict=True):
            assert left.shape == right.shape
            assert np.abs(left - right).max() < 1e-5 * np.abs(left).max()


def test_what_enters_projections_is_the_same(twins: Twins) -> None:
    expected, found = ({(k, len(v)): v for k, v in twin.projection_inputs(WINDOWS)} for twin in twins)
    roles = [f"layers.{layer}.{role}" for layer in (0, 1) for role in ("qkv", "o", "gate_up", "down")]
    assert found.keys() == expected.keys() == {(role, len(window)) for role in roles for window in WINDOWS}
    for key, left in expected.items():
        assert np.abs(left - found[key]).max() < 1e-5 * np.abs(left).max()


def test_a_layer_leaves_nothing_behind(tmp_path: Path) -> None:
    twin = LayerwiseTwin(RandomCheckpoint(ARCHITECTURES["llama"]), CAPACITY, tmp_path / "layer", SilentReporter())
    list(twin.logits(WINDOWS))
    assert list(tmp_path.iterdir()) == []


LLAMA_8B = DecoderSpec(
    architecture="llama", num_layers=32, hidden_size=4096, num_heads=32, num_kv_heads=8, head_dim=128,
    intermediate_size=14336, vocab_size=128256, max_positions=131072, norm_eps=1e-5, tied_head=False,
    layers=(LayerSpec(),) * 32, ropes=ARCHITECTURES["llama3"].ropes,
)  # fmt: skip
TEXT = TextSize(num_tokens=4000, window_tokens=512)
GIB = 2**30


def test_eight_billion_weights_get_their_report_on_32_gib() -> None:
    """32.1 GB of float32 weights cannot be held twice; one layer of 0.87 GB and the 8-bit graph of 8.5 GB can."""
    way = choose_way(LLAMA_8B, plan_from_name("int8"), 8192, TEXT, available_bytes=30 * GIB, way_out="x")
    assert not way.is_whole
    assert 17 * GIB < way.memory_bytes < 19 * GIB
    assert 0.8 * GIB < way.scratch_bytes < 0.9 * GIB
    assert whole_way(LLAMA_8B, plan_from_name("int8"), 8192, TEXT).memory_bytes > 60 * GIB


def test_stored_weights_are_a_second_twin_in_the_arithmetic() -> None:
    """In place of the package's graph of 8.5 GB: a second head of 2.1 GB, twice; streams of 74 MB, logits of 263 MB."""
    eight = plan_from_name("int8")
    (whole, second), (layered, streams) = (
        (way(LLAMA_8B, eight, 8192, TEXT), way(LLAMA_8B, None, 8192, TEXT)) for way in (whole_way, layerwise_way)
    )
    head, hidden = 4 * 128256 * 4096, 4 * TEXT.num_tokens * 4096
    assert second.scratch_bytes == 2 * whole.scratch_bytes
    assert second.memory_bytes == whole.memory_bytes + 2 * head + hidden
    assert streams.scratch_bytes == layered.scratch_bytes
    assert 2.33 * GIB < streams.memory_bytes < 2.4 * GIB
    narrow = replace(LLAMA_8B, hidden_size=128, num_heads=1, num_kv_heads=1, intermediate_size=256)
    assert 1.2e9 < layerwise_way(narrow, None, 8192, TEXT).memory_bytes < 1.3e9  # float64 rows, three times logits


def test_the_next_window_s_logits_are_made_beside_those_that_are_compared() -> None:
    """A narrow model's peak is its logits: four times 263 MB, where one window's at a time is twice."""
    narrow = replace(LLAMA_8B, hidden_size=128, num_heads=1, num_kv_heads=1, intermediate_size=256)
    logits, eight = 4 * 512 * 128256, plan_from_name("int8")
    whole, layered = (way(narrow, eight, 8192, TEXT).memory_bytes for way in (whole_way, layerwise_way))
    assert 4 * logits < whole - BASE_BYTES < 6.2 * logits
    assert layered < whole - logits


def test_the_whole_graph_is_taken_as_soon_as_it_fits() -> None:
    spec, plan = replace(LLAMA_8B, num_layers=2, layers=(LayerSpec(),) * 2), plan_from_name("int4")
    whole, layered = (way(spec, plan, 8192, TEXT) for way in (whole_way, layerwise_way))
    assert layered.memory_bytes < whole.memory_bytes
    for way, available in (
        (whole, whole.memory_bytes),
        (layered, whole.memory_bytes - 1),
        (layered, layered.memory_bytes),
    ):
        assert choose_way(spec, plan, 8192, TEXT, available_bytes=available, way_out="x") == way
    with pytest.raises(ExportError, match=r"needs about \d+\.\d GiB of memory at the least, .*or sell it"):
        choose_way(spec, plan, 8192, TEXT, available_bytes=layered.memory_bytes - 1, way_out="sell it")
