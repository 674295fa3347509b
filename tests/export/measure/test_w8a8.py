"""Products of integers: codes that no CPU saturates on, smoothing that changes nothing, and a choice by measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.checkpoint.precision import EXACT, PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import four_bit_candidates, plan_from_name
from export.checkpoint.quantize import quantize_paired
from export.errors import ExportError, QualityError
from export.graph.ort.dialect import OPSET, OrtDialect
from export.graph.ort.graph import write_ort_graph
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.measure.gauge import model_shape
from export.measure.input_ranges import measure_input_ranges
from export.measure.sensitivity import choose_units, plan_with_units, unit_notes
from export.measure.smoothing import HEADROOM, IntegerFit, SmoothedCheckpoint, fit_projections
from export.measure.twin import WholeTwin
from export.progress import SilentReporter
from export.source.hf.checkpoint import HfCheckpoint
from export.source.recipe import FolderSource, QualityLimits, Recipe
from runtime.package.manifest import load_package
from tests.export.graph_runs import GraphRun
from tests.export.package.tiny_builds import build
from tests.export.random_checkpoint import lazy_from_array
from tests.export.reference import reference_logits
from tests.export.tiny_models import ARCHITECTURES, tiny_input_ids, write_tiny_folder

F32 = npt.NDArray[np.float32]
EIGHT = plan_from_name("int8")


def test_paired_codes_by_hand() -> None:
    """The largest pair, 100 + 27, gets 127 codes; a row of one large weight keeps it at 127; zeros get scale 1."""
    weights = np.array([[100, 27, -3, 0], [0, 0, 0, -254], [0, 0, 0, 0]], np.float32)
    codes, scales = quantize_paired(weights)
    assert scales.tolist() == [1.0, 2.0, 1.0]
    assert codes.tolist() == [[100, 27, -3, 0], [0, 0, 0, -127], [0, 0, 0, 0]]


def test_an_odd_last_column_stands_alone() -> None:
    codes, scales = quantize_paired(np.array([[1, 1, -127]], np.float32))
    assert (codes.tolist(), scales.tolist()) == ([[1, 1, -127]], [1.0])


@settings(max_examples=100)
@given(weights=hnp.arrays(np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32)))
def test_no_pair_of_products_passes_sixteen_bits(weights: F32) -> None:
    codes, scales = quantize_paired(weights)
    pairs = np.abs(codes.astype(np.int64)).reshape(3, -1, 2).sum(axis=2)
    assert 255 * pairs.max() <= 2**15 - 1
    error = np.abs(codes * scales[:, None] - weights)
    assert (error <= scales[:, None] * (0.5 + 1e-3)).all()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def fitted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HfCheckpoint, dict[str, F32], dict[str, IntegerFit], Path]:
    """A tiny checkpoint of every architecture, its inputs' ranges on its own text, its fits and a folder."""
    root = tmp_path_factory.mktemp(request.param)
    checkpoint = HfCheckpoint(write_tiny_folder(root / "hf", request.param))
    twin = WholeTwin(checkpoint, 64, model_shape(checkpoint.spec), root / "float")
    ranges = measure_input_ranges(twin, [tiny_input_ids()], SilentReporter())
    return checkpoint, ranges, fit_projections(checkpoint, ranges), root


Fitted = tuple[HfCheckpoint, dict[str, F32], dict[str, IntegerFit], Path]


def test_smoothing_leaves_the_function_as_it_is(fitted: Fitted) -> None:
    checkpoint, ranges, fits, _ = fitted
    layers = range(checkpoint.spec.num_layers)
    assert set(fits) == {f"layers.{i}.{role}" for i in layers for role in ("qkv", "o", "gate_up", "down")}
    smoothed = SmoothedCheckpoint(checkpoint, fits, fits)
    exact = reference_logits(checkpoint, tiny_input_ids())
    difference = np.abs(reference_logits(smoothed, tiny_input_ids()) - exact).max()
    assert 0 < difference < 1e-4 * np.abs(exact).max()
    name = "layers.0.down"
    assert fits[name].format.input_scale * 127 / HEADROOM == pytest.approx((ranges[name] / fits[name].factors).max())


def test_integer_graphs_are_near_float32_and_equal_in_any_call_shape(fitted: Fitted) -> None:
    checkpoint, _, fits, root = fitted
    plan = EXACT.keeping({name: fit.format for name, fit in fits.items()})
    smoothed = SmoothedCheckpoint(checkpoint, fits, plan.integer_names)
    info = write_ort_graph(smoothed, plan, 64, root / "int", SilentReporter())
    assert info.providers == ("cpu",)
    graph = root / "int" / GRAPH_FILE
    kinds = [node.op_type for node in onnx.load(str(graph), load_external_data=False).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == len(fits)
    ids, exact = tiny_input_ids(), reference_logits(checkpoint, tiny_input_ids())
    whole = GraphRun(graph, checkpoint.spec)(ids[None], [0])
    assert 0 < np.abs(whole - exact).mean() < 0.1 * np.abs(exact).mean()  # random weights pass every error on
    run = GraphRun(graph, checkpoint.spec)
    chunks = [run(ids[None, start:stop], [start]) for start, stop in ((0, 7), (7, 9), (9, 24))]
    assert np.array_equal(np.concatenate(chunks), whole)


def test_columns_and_rows_of_a_fold_by_hand() -> None:
    """``down`` reads an input of [2, 6] with weights of [1, 1]: its spread moves, in equal parts of logarithms."""

    class Down:
        spec = HfCheckpoint  # not read for this projection

        def tensor(self, _name: str) -> object:
            return lazy_from_array("down", np.ones((1, 2), np.float32))

    fit = fit_projections(Down(), {"layers.0.down": np.array([2, 32], np.float32)})["layers.0.down"]  # type: ignore[arg-type]
    assert fit.factors == pytest.approx([16**-0.4, 16**0.4])  # (2 / 8)^0.8 and (32 / 8)^0.8, 8 the geometric mean
    assert fit.format.input_scale == pytest.approx(HEADROOM * 32 / 16**0.4 / 127)


def test_one_product_is_what_numpy_computes(tmp_path: Path) -> None:
    """Inputs rounded to multiples of 0.5 and clipped at code 127, paired codes, one scale per output, and the bias."""
    spec = HfCheckpoint(write_tiny_folder(tmp_path / "hf", "llama")).spec
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 32)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    x = (rng.normal(size=(3, 32)) * 20).astype(np.float32)
    x[0, 0], x[1, 1] = 1000, -1000
    with GraphWriter(tmp_path / "ort") as writer:
        plan = EXACT.keeping({"layers.0.o": WeightFormat(8, 0, 0.5)})
        dialect = OrtDialect(spec, writer, plan, 64)
        writer.input("x", np.float32, ("rows", 32))
        dialect.linear("layers.0.o", "x", lazy_from_array("w", weight), lazy_from_array("b", bias))
        writer.output("layers.0.o", np.float32, ("rows", 5))
        writer.save(OPSET)
    session = onnxruntime.InferenceSession(tmp_path / "ort" / GRAPH_FILE, providers=["CPUExecutionProvider"])
    codes, scales = quantize_paired(weight)
    rounded = np.clip(np.rint(x / 0.5), -128, 127).astype(np.int64)
    expected = (rounded @ codes.T.astype(np.int64)) * (scales * np.float32(0.5)) + bias
    assert session.run(["layers.0.o"], {"x": x})[0] == pytest.approx(expected, rel=1e-6)


def _measure(losses: dict[str, float], base: float = 0.01) -> Callable[[PrecisionPlan], float]:
    return lambda plan: base + sum(losses[name] for name in plan.overrides)


def test_the_choice_is_whole_projections_first_and_runs_of_layers_then(tmp_path: Path) -> None:
    """llama has 2 layers, so a run is one. 0.02 may be spent: qkv and o fit whole; of ``down`` its second layer."""
    spec = HfCheckpoint(write_tiny_folder(tmp_path, "llama")).spec
    losses = {"qkv": (0.001, 0.001), "o": (0.001, 0.0005), "gate_up": (0.02, 0.03), "down": (0.05, 0.004)}
    per_name = {f"layers.{layer}.{role}": pair[layer] for role, pair in losses.items() for layer in (0, 1)}
    candidates = four_bit_candidates(spec)
    units = choose_units(spec, EIGHT, candidates, _measure(per_name), budget=0.02, reporter=SilentReporter())
    plan, notes = plan_with_units(EIGHT, candidates, units), unit_notes(candidates, units)
    expected = {"layers.0.qkv", "layers.1.qkv", "layers.0.o", "layers.1.o", "layers.1.down"}
    assert set(plan.overrides) == expected
    assert notes == {
        "qkv of layers 0-1": "int4 block 32, +0.0020 nats alone",
        "o of layers 0-1": "int4 block 32, +0.0015 nats alone",
        "down of layers 1-1": "int4 block 32, +0.0040 nats alone",
    }


def test_what_adds_up_to_more_than_it_cost_alone_is_taken_back(tmp_path: Path) -> None:
    spec = HfCheckpoint(write_tiny_folder(tmp_path, "llama")).spec

    def measure(plan: PrecisionPlan) -> float:
        return 0.01 + 0.0001 * len(plan.overrides) ** 3  # two matrices: 0.0108, four: 0.0164, six: 0.0316

    candidates = four_bit_candidates(spec)
    units = choose_units(spec, EIGHT, candidates, measure, budget=0.02, reporter=SilentReporter())
    assert (len(plan_with_units(EIGHT, candidates, units).overrides), len(units)) == (4, 2)


def test_a_budget_below_eight_bits_is_refused(tmp_path: Path) -> None:
    spec = HfCheckpoint(write_tiny_folder(tmp_path, "llama")).spec
    with pytest.raises(QualityError, match=r"8 bits everywhere give a mean KL of 0\.0300, the budget is 0\.02"):
        choose_units(spec, EIGHT, four_bit_candidates(spec), lambda _: 0.03, budget=0.02, reporter=SilentReporter())


def test_other_dialects_get_the_plan_without_integers() -> None:
    integers = WeightFormat(8, 0, 0.5)
    plan = plan_from_name("int4").keeping({"layers.0.qkv": integers})
    assert plan.integer_names == {"layers.0.qkv"}
    assert plan.weights_only() == plan_from_name("int4")
    assert integers.num_bytes((10, 7), 4) == 70 + 40
    assert plan.default.num_bytes((10, 64), 4) == 320 + 80


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
def test_a_w8a8_package(kv_cache: str, tmp_path: Path) -> None:
    """The build measures, folds and chooses; with TensorRT's graph and with a cache of folded values beside it."""
    write_tiny_folder(tmp_path / "hf", "llama")
    recipe = Recipe(
        name="tiny", source=FolderSource(path="hf"), precision="w8a8", quality=QualityLimits(max_mean_kl=0.5),
        dialects=("ort", "trt"), kv_cache=kv_cache,  # type: ignore[arg-type]
    )  # fmt: skip
    manifest = load_package(build(recipe, tmp_path)).manifest
    assert manifest.quality is not None
    assert manifest.quality.mean_kl < 0.02
    assert manifest.graphs["ort"].providers == ("cpu",)
    assert "int8 weights and inputs" in manifest.graphs["ort"].precision["attention"]
    assert not any("inputs" in text for text in manifest.graphs["trt"].precision.values())


def test_w8a8_needs_a_budget(tmp_path: Path) -> None:
    write_tiny_folder(tmp_path / "hf", "llama")
    with pytest.raises(ExportError, match="precision 'w8a8' needs a budget; give --max-kl"):
        build(Recipe(name="tiny", source=FolderSource(path="hf"), precision="w8a8", quality=None), tmp_path)
