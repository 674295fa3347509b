"""Golden rows are what the package's own stored weights give: of every architecture and precision, in either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.precision import FP8, NVFP4, PrecisionPlan, WeightFormat
from export.checkpoint.quantize import quantize_rows
from export.checkpoint.quantized_tensor import QuantizedTensor, quantized_tensor
from export.errors import QualityError, UnsupportedError
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.trt.stored import StoredCheckpoint
from export.graph.writer import GraphWriter
from export.measure.golden import LONG_TOKENS, GoldenMaker, golden_places, golden_rows, golden_texts
from export.measure.memory import TextSize, golden_way
from export.package.builder import build_package, is_for_gpus
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
from runtime.package.golden import GoldenRows, golden_bytes, read_golden
from runtime.package.manifest import load_package
from runtime.session.distribution import gathered_kl, gathered_log_probs
from tests.export.graph.test_trt_dialect import Graph
from tests.export.random_checkpoint import (
    ARCHITECTURES,
    CAPACITY,
    RandomCheckpoint,
    lazy_from_array,
    plan,
    write_trt,
)
from tests.export.tiny_models import tiny_tokenizer_json, write_tiny_folder

TEXTS = tuple(np.random.default_rng(seed).integers(0, 97, length) for seed, length in enumerate((40, 7, 21, 8, 9)))
FORMS = {
    "int8": PrecisionPlan(WeightFormat(8, 32), "float32"),
    "int4": PrecisionPlan(WeightFormat(4, 32), "float32", {"embedding": WeightFormat(8, 32)}),
    "fp16": plan("fp16"),
    "fp8": PrecisionPlan(FP8, "float32"),
}


def rows_of(stored: StoredCheckpoint, folder: Path, *, is_whole: bool = True) -> GoldenRows:
    return golden_rows(stored, TEXTS, CAPACITY, folder, is_whole=is_whole, reporter=SilentReporter())


def worst_kl(golden: GoldenRows, graph: Path, kv: tuple[int, int]) -> float:
    """Over the first text, of the package's own graph in ONNX Runtime."""
    found = []
    for number, text in enumerate(TEXTS[:1]):
        places, first = golden.positions(number), golden.first_row(number)
        logits = Graph(graph, kv, 1).run([text.tolist()], [0])[places]
        rows = slice(first, first + len(places))
        reference = golden.rows.log_probs[rows].astype(np.float64), golden.rows.log_rest[rows].astype(np.float64)
        found.append(gathered_kl(reference, gathered_log_probs(logits, golden.rows.best[rows])).max())
    return float(max(found))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("llama", "int8"),
        ("llama", "int4"),
        ("qwen2", "int8"),
        ("gemma2", "int4"),
        ("granite", "int8"),
        ("olmo2", "int4"),
        ("granite", "fp8"),
    ],
)
def test_rows_are_those_of_the_packages_own_graph(tmp_path: Path, name: str, form: str) -> None:
    """Quantized weights between float32 activations, which both sides compute exactly; with biases, norms before and
    after, factors that are folded into weights, tied heads and others."""
    spec = ARCHITECTURES[name]
    golden = rows_of(StoredCheckpoint(RandomCheckpoint(spec), FORMS[form]), tmp_path / "scratch")
    graph = write_trt(spec, tmp_path / "trt", FORMS[form])
    assert worst_kl(golden, graph, (spec.num_kv_heads, spec.head_dim)) < 1e-7


def test_rows_are_not_those_of_the_checkpoint(tmp_path: Path) -> None:
    spec = ARCHITECTURES["llama"]
    golden = rows_of(StoredCheckpoint(RandomCheckpoint(spec), plan("fp32")), tmp_path / "scratch")
    graph = write_trt(spec, tmp_path / "trt", FORMS["int4"])
    assert worst_kl(golden, graph, (spec.num_kv_heads, spec.head_dim)) > 1e-3


def test_layer_by_layer_the_rows_are_the_same(tmp_path: Path) -> None:
    stored = StoredCheckpoint(RandomCheckpoint(ARCHITECTURES["gemma2"]), FORMS["int4"])
    whole, layers = (rows_of(stored, tmp_path / str(way), is_whole=way) for way in (True, False))
    assert whole.places.tolist() == layers.places.tolist()
    np.testing.assert_array_equal(whole.rows.best[:, 0], layers.rows.best[:, 0])
    np.testing.assert_allclose(whole.rows.log_probs, layers.rows.log_probs, atol=1e-4)


def test_weights_are_rounded_as_the_graph_stores_them() -> None:
    """bfloat16 has no kernels here, so its numbers are compared, not its logits."""
    spec = replace(ARCHITECTURES["granite"], embedding_multiplier=33.9)
    checkpoint = RandomCheckpoint(spec)
    stored = StoredCheckpoint(checkpoint, plan("bf16"))
    assert stored.spec.embedding_multiplier == 34.0
    for name, factor in (("layers.1.q", 1.0), ("layers.0.o", 0.22), ("final_norm", 0.25), ("embedding", 1.0)):
        held = (checkpoint.tensor(name).numpy() * np.float32(factor)).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_allclose(stored.tensor(name).numpy() * np.float32(factor), held, rtol=1e-6)
    np.testing.assert_array_equal(stored.tensor("head").numpy(), stored.tensor("embedding").numpy())


class UnevenCheckpoint(RandomCheckpoint):
    """Keys, and half of each last projection, 10,000 times smaller than what they share a matrix's scale with."""

    def tensor(self, name: str) -> LazyTensor:
        exact = super().tensor(name)
        if not name.endswith((".k", ".o")):
            return exact
        small = np.full(exact.shape[0], 1e-4, np.float32)
        small[::2] *= 1e4 if name.endswith(".o") else 1.0
        return exact.scale_rows(small)


@pytest.mark.parametrize("float_type", ["float16", "bfloat16"])
def test_nvfp4_weights_are_those_that_the_graph_s_operators_make(
    float_type: Literal["float16", "bfloat16"], tmp_path: Path
) -> None:
    """By onnx's own evaluator of DequantizeLinear, since no CPU has kernels; with a factor that is folded, too."""
    checkpoint, form = UnevenCheckpoint(ARCHITECTURES["granite"]), PrecisionPlan(NVFP4, float_type)
    stored = StoredCheckpoint(checkpoint, form)
    with GraphWriter(tmp_path) as writer:
        emit_decoder(checkpoint, TrtDialect(checkpoint.spec, writer, form, 64))
        writer.save(OPSET)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    for name, parts, factor in (("layers.0.qkv", "qkv", 1.0), ("layers.1.o", "o", 0.22)):
        nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.name.startswith(name)]
        read = {text for node in nodes for text in node.input}
        made = helper.make_tensor_value_info(name + ".matrix", TensorProto.FLOAT16, None)
        graph = helper.make_graph(
            nodes, "matrix", [], [made], [one for one in model.graph.initializer if one.name in read]
        )
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=model.opset_import))
        (found,) = evaluator.run(None, {})
        matrix: npt.NDArray[np.float32] = np.asarray(found, np.float32)
        expected = np.concatenate([stored.tensor(f"{name.rpartition('.')[0]}.{part}").numpy() for part in parts])
        np.testing.assert_allclose(matrix.T, expected * np.float32(factor), rtol=1e-6)
        assert (np.abs(expected).max(axis=1) > 0).all()


def test_weights_that_half_precision_cannot_hold_are_told() -> None:
    """Their scales can be held, the values that the graph multiplies with cannot."""

    class Huge(RandomCheckpoint):
        def tensor(self, name: str) -> LazyTensor:
            return super().tensor(name).map(lambda band: band * np.float32(1e6))

    stored = StoredCheckpoint(Huge(ARCHITECTURES["llama"]), plan("fp8"))
    with pytest.raises(UnsupportedError, match=r"layers.0.q holds weights of up to .*, which float16 cannot"):
        stored.tensor("layers.0.q").numpy()


def test_a_tied_head_is_stored_apart_from_the_table() -> None:
    """The table is never quantized; its second copy, which every step multiplies with, is."""
    checkpoint = RandomCheckpoint(ARCHITECTURES["llama"])
    stored = StoredCheckpoint(checkpoint, plan("int8"))
    table, head = stored.tensor("embedding").numpy(), stored.tensor("head").numpy()
    np.testing.assert_array_equal(table, checkpoint.tensor("embedding").numpy().astype(np.float16).astype(np.float32))
    assert 0 < np.abs(head - table).max() < 0.02
    assert np.unique(head[0, :32] / np.abs(head[0, :32]).max()).size <= 255


def test_codes_that_the_checkpoint_has_are_kept() -> None:
    codes, scales = quantize_rows(np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32), 8, 32)
    kept = quantized_tensor(
        "x", (8, 64), WeightFormat(8, 32), lambda start, stop: (codes[start:stop], scales[start:stop])
    )

    class Holding(RandomCheckpoint):
        def tensor(self, name: str) -> QuantizedTensor:
            del name
            return kept

    stored = StoredCheckpoint(Holding(ARCHITECTURES["llama"]), plan("int8"))
    assert stored.tensor("layers.0.q") is kept
    assert stored.tensor("embedding") is not kept


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_weights_beyond_float16_are_one_error(form: str) -> None:
    huge = lazy_from_array("o", np.full((64, 64), 1e8, np.float32))

    class Huge(RandomCheckpoint):
        def tensor(self, name: str) -> LazyTensor:
            return huge

    stored = StoredCheckpoint(Huge(ARCHITECTURES["llama"]), plan(form))
    with pytest.raises(
        UnsupportedError, match=r"layers\.0\.o holds weights of up to 1e\+08, which float16 cannot; choose"
    ):
        stored.tensor("layers.0.o").numpy()


def test_logits_that_are_not_finite_are_one_error(tmp_path: Path) -> None:
    class Broken(RandomCheckpoint):
        def tensor(self, name: str) -> LazyTensor:
            tensor = super().tensor(name)
            return tensor.map(lambda band: band * np.float32(1e38)) if name == "final_norm" else tensor

    with pytest.raises(QualityError, match="the stored weights give NaN or infinite logits"):
        rows_of(StoredCheckpoint(Broken(ARCHITECTURES["llama"]), plan("fp32")), tmp_path)


@pytest.mark.parametrize(("capacity", "num_rows"), [(8192, 216), (1024, 184), (64, 168), (16, 76)])
def test_places_reach_from_the_start_to_the_last_row(capacity: int, num_rows: int) -> None:
    """Of 8,192 tokens the long text takes 3,072: rows begin there at 16, 512, 1,024, 2,048 and 3,056."""
    texts = golden_texts(tiny_tokenizer_json(), 96, capacity)
    places = golden_places(texts)
    assert [len(text) for text in texts] == [min(length, capacity) for length in (LONG_TOKENS, 80, 61, 112, 47)]
    assert sum(map(len, places)) == num_rows
    for text, rows in zip(texts, places, strict=True):
        assert rows[-1] == len(text) - 1
        assert np.all(np.diff(rows) > 0)
    if capacity == 8192:
        assert [place for place in places[0].tolist() if place % 16 == 0] == [16, 512, 1024, 2048, 3056]
    assert all(
        np.array_equal(*pair) for pair in zip(texts, golden_texts(tiny_tokenizer_json(), 96, capacity), strict=True)
    )


def test_the_way_is_chosen_by_memory() -> None:
    """The whole graph, twice, if that fits; else one layer. Neither needs the package's own graph."""
    spec = replace(ARCHITECTURES["llama"], tied_head=False, hidden_size=2048, intermediate_size=8192, vocab_size=32000)
    text = TextSize(3300, 3072)
    whole = golden_way(spec, 4096, text, 2**50)
    assert whole.is_whole
    assert golden_way(spec, 4096, text, whole.memory_bytes) == whole
    layers = golden_way(spec, 4096, text, whole.memory_bytes - 1)
    assert not layers.is_whole
    assert layers.memory_bytes < whole.memory_bytes
    assert layers.scratch_bytes < whole.scratch_bytes


@pytest.mark.parametrize(
    ("precision", "dialects", "expected"),
    [
        ("int8", ("ort",), False),
        ("w8a8", ("ort",), False),
        ("fp32", ("ort",), False),
        ("int8", ("ort", "trt"), True),
        ("fp16", ("ort",), True),
        ("bf16", ("ort",), True),
    ],
)
def test_packages_for_a_gpu_get_rows(
    precision: str, dialects: tuple[Literal["ort", "trt"], ...], expected: bool
) -> None:
    recipe = Recipe(name="x", source=FolderSource(path="x"), precision=precision, dialects=dialects)
    assert is_for_gpus(recipe) is expected


def test_a_bf16_package_holds_rows_although_no_cpu_runs_its_graph(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", "llama")
    recipe = Recipe(name="tiny", source=FolderSource(path=str(folder)), precision="bf16", quality=None)
    first, second = (build_package(recipe, tmp_path, tmp_path / name / "tiny", SilentReporter()) for name in "ab")
    package = load_package(first.root)
    golden = read_golden(package)
    assert len(golden.places) == 168
    assert package.manifest.files["golden.bin"].size == len(golden_bytes(golden))
    assert first.manifest.files["golden.bin"] == second.manifest.files["golden.bin"]  # the same bytes
    assert not (first.root / "scratch").exists()


def test_an_older_package_for_a_gpu_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, root = write_tiny_folder(tmp_path / "hf", "llama"), tmp_path / "models" / "tiny"
    recipe = Recipe(name="tiny", source=FolderSource(path=str(folder)), precision="fp16", quality=None)
    monkeypatch.setattr("export.package.builder.is_for_gpus", lambda _recipe: False)
    assert build_package(recipe, tmp_path, root, SilentReporter()).manifest.golden is None
    assert build_package(recipe, tmp_path, root, SilentReporter()).was_up_to_date
    monkeypatch.undo()
    assert build_package(recipe, tmp_path, root, SilentReporter()).manifest.golden is not None
    assert build_package(recipe, tmp_path, root, SilentReporter()).was_up_to_date


def test_what_is_not_asked_for_costs_nothing(tmp_path: Path) -> None:
    maker = GoldenMaker(ARCHITECTURES["llama"], 64, tiny_tokenizer_json(97), available_bytes=0)
    assert not maker.way.is_whole
    info = maker.write(
        RandomCheckpoint(ARCHITECTURES["llama"]), plan("bf16"), tmp_path, tmp_path / "s", SilentReporter()
    )
    assert (info.num_texts, info.num_rows, info.num_best) == (5, 168, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["golden.bin"]
