"""Folders of ONNX Runtime GenAI and Optimum become packages whose logits are those of the graphs that were there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

import powertrain
from export.errors import ExportError
from export.interop.foreign_graph import read_foreign_graph
from export.interop.package import build_foreign_package
from export.interop.source_folder import holds_foreign_graph, read_source_folder
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package, load_package
from runtime.session.session import decode_logits
from tests.export.interop.foreign_folders import SPEC, write_genai, write_optimum
from tests.export.random_checkpoint import ARCHITECTURES

IDS = np.array([5, 9, 33, 60, 61, 7, 18, 90, 41, 12], np.int64)


def build(folder: Path, root: Path, **wishes: Any) -> Package:
    recipe = Recipe(name="foreign", source=FolderSource(path=str(folder)), **wishes)
    return load_package(build_foreign_package(recipe, folder, root, SilentReporter()).root)


def whole_run(graph: Path, head_dim: int) -> npt.NDArray[np.float32]:
    """The foreign graph's own logits [T, V] of IDS, at once, from an empty cache."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": IDS[None], "attention_mask": np.ones((1, len(IDS)), np.int64)}
    for value in session.get_inputs():
        if "past" in value.name:
            feeds[value.name] = np.zeros((1, 2, 0, head_dim), np.float32)
        elif value.name == "position_ids":
            feeds[value.name] = np.arange(len(IDS))[None]
    logits: npt.NDArray[np.float32] = np.asarray(session.run(["logits"], feeds)[0])[0]
    return logits


def logits_of(package: Package) -> npt.NDArray[np.float32]:
    """The package's logits [T, V] of IDS: a prompt in two pieces, and the last three tokens one at a time, beside
    another slot's."""
    options = ModelOptions(num_slots=2, max_model_len=32, threads=1)
    session = session_factory(package, plan_model(package, options), options)()
    session.prefill(0, IDS[::-1].copy(), 0, 0)
    parts = [session.prefill(1, IDS[:4], 0, 4).copy(), session.prefill(1, IDS[4:7], 4, 3).copy()]
    for place in (7, 8, 9):
        rows = decode_logits(session, 0, np.array([3, IDS[place]]), np.array([len(IDS) + place - 7, place]))
        parts.append(rows[1:].copy())
    session.close()
    return np.concatenate(parts)


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_genais_graph_runs_in_slots(tmp_path: Path, *, int8: bool) -> None:
    """The head is a product in the one case, and something behind a product in the other."""
    folder = write_genai(tmp_path / "given", int8=int8)
    package = build(folder, tmp_path / "out")
    manifest = package.manifest
    assert list(manifest.graphs) == ["ort"]
    np.testing.assert_allclose(logits_of(package), whole_run(folder / "model.onnx", 16), atol=0.02 if int8 else 1e-4)
    assert (manifest.shape.num_layers, manifest.shape.num_kv_heads, manifest.shape.head_dim) == (2, 2, 16)
    assert (manifest.architecture, manifest.max_model_len, manifest.stop_token_ids) == ("llama", 64, (2, 7))
    assert manifest.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert json.loads(package.read_text("generation_config.json")) == {
        "temperature": 0.5, "top_p": 0.75, "top_k": 20, "eos_token_id": [2, 7]
    }  # fmt: skip
    label = "as ONNX Runtime GenAI wrote them" + (", matrices at 8 bits" if int8 else "")
    assert manifest.graphs["ort"].precision == {"weights": label}
    assert package.path("ort/model.onnx.data").read_bytes() == (folder / "model.onnx.data").read_bytes()
    assert package.read_text("LICENSE") == "MIT"
    read = [folder / name for name in ("genai_config.json", "model.onnx", "model.onnx.data")]
    lines = "".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in read)
    assert manifest.source.sha256 == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("search", "sampling"),
    [
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0.0}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": None}, {"temperature": 0.7}),
        ({"max_length": 64}, {}),
    ],
)
def test_sampling_is_what_genai_would_do(tmp_path: Path, search: dict[str, Any], sampling: dict[str, float]) -> None:
    path = write_genai(tmp_path / "given") / "genai_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"search": search}))
    assert read_source_folder(path.parent).sampling == sampling


def test_optimums_graph_runs_on_a_cache_that_grows(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "given")
    package = build(folder, tmp_path / "out")
    assert list(package.manifest.graphs) == ["optimum"]
    assert (package.manifest.architecture, package.manifest.max_model_len) == ("gpt_tiny", 64)
    assert package.manifest.stop_token_ids == (2,)
    np.testing.assert_allclose(logits_of(package), whole_run(folder / "model.onnx", 4), atol=1e-4)


def test_attention_beside_another_reader_of_the_mask_keeps_the_mask(tmp_path: Path) -> None:
    folder = write_genai(tmp_path / "given")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    spare = [
        onnx.helper.make_node("ReduceMin", ["attention_mask"], ["least"], keepdims=0),
        onnx.helper.make_node("Cast", ["least"], ["factor"], to=1),
        onnx.helper.make_node("Mul", ["flat_logits", "factor"], ["scaled"]),
    ]
    model.graph.node[-1].input[0] = "scaled"
    last = model.graph.node.pop()
    model.graph.node.extend([*spare, last])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    package = build(folder, tmp_path / "out")
    assert list(package.manifest.graphs) == ["optimum"]
    np.testing.assert_allclose(logits_of(package), whole_run(folder / "model.onnx", 16), atol=1e-4)


def test_other_attention_keeps_its_growing_cache_though_it_reads_no_mask(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "given")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for node in model.graph.node:
        node.input[:] = ["input_ids" if name in {"attention_mask", "position_ids"} else name for name in node.input]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    source = read_source_folder(folder)
    assert read_foreign_graph(source.graph, source.names, source.sizes).kind == "optimum"


def test_the_command_takes_a_graph_as_it_is(tmp_path: Path) -> None:
    folder, out = write_optimum(tmp_path / "given"), tmp_path / "out"
    words = ["export", str(folder), "-o", str(out)]
    first = CliRunner().invoke(powertrain.main, words)
    assert first.exit_code == 0, first.output
    assert "is up to date" in " ".join(CliRunner().invoke(powertrain.main, words).output.split())
    shown = CliRunner().invoke(powertrain.main, ["inspect", str(out)]).output
    assert "not measured  foreign graph: its weights are as they came" in shown
    said = CliRunner().invoke(powertrain.main, [*words, "--precision", "int4"])
    assert said.exit_code == 1
    looked = CliRunner().invoke(powertrain.main, [*words, "--explain"])
    assert looked.exit_code == 1
    assert "the folder holds a finished graph" in " ".join(looked.output.replace("│", " ").split())
    assert "precision: a graph that others wrote stays as it is" in " ".join(said.output.replace("│", " ").split())


def test_safetensors_come_before_a_graph(tmp_path: Path) -> None:
    assert not holds_foreign_graph(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").touch()
    assert holds_foreign_graph(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert not holds_foreign_graph(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vision": {}}, "a part 'vision' beside the decoder"),
        ({"encoder": {"filename": "e.onnx"}}, "a part 'encoder' beside the decoder"),
        ({"decoder": {"pipeline": [{}]}}, "decoder.pipeline: a pipeline of several graphs"),
        ({"decoder": {"sliding_window": {"window_size": 4}}}, "decoder.sliding_window: a cache that slides"),
        ({"decoder": {"session_options": {"custom_ops_library": "x.so"}}}, "custom_ops_library: foreign code"),
        ({"decoder": {"filename": "../model.onnx"}}, "not a plain file name"),
        ({"decoder": {"filename": "other.onnx"}}, "other.onnx is missing"),
        (
            {"decoder": {"inputs": dict.fromkeys(("past_key_names", "past_value_names"), "past_%d")}},
            "nothing here feeds: past_0_k",
        ),
        ({"decoder": {"inputs": {"past_key_names": "past"}}}, "nothing here feeds: past_0_k"),
        ({"eos_token_id": "</s>"}, "a token id or a list of them is needed"),
        ({"context_length": 8}, "a context of 8 tokens is too short"),
    ],
)
def test_what_a_configuration_says_that_nothing_runs_is_named(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ExportError, match=reason):
        build(write_genai(tmp_path / "given", **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["encoder_model.onnx", "vision_encoder.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx"]
)
def test_several_graphs_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "onnx").mkdir()
    for place in (tmp_path, tmp_path / "onnx"):
        (place / name).touch()
        assert holds_foreign_graph(tmp_path)
        with pytest.raises(ExportError, match=name):
            read_source_folder(tmp_path)
        (place / name).unlink()


def test_a_decoder_beside_the_whole_graph_is_passed_over(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "given")
    (folder / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data"):
        (folder / name).rename(folder / "onnx" / name)
    (folder / "onnx" / "decoder_model_merged.onnx").touch()
    assert read_source_folder(folder).graph == folder / "onnx" / "model.onnx"
    first = build(folder, tmp_path / "out").manifest
    assert list(first.graphs) == ["optimum"]
    assert build(folder, tmp_path / "out").manifest == first
    (folder / "onnx" / "model.onnx_data").touch()
    assert build(folder, tmp_path / "out").manifest.recipe_digest != first.recipe_digest


def custom(graph: onnx.GraphProto) -> None:
    graph.node[3].domain = "ai.example"


def compiled(graph: onnx.GraphProto) -> None:
    graph.node[3].op_type, graph.node[3].domain = "EPContext", "com.microsoft"


def branching(graph: onnx.GraphProto) -> None:
    graph.node[3].attribute.append(onnx.helper.make_attribute("then_branch", onnx.GraphProto(name="then")))


def unfed(graph: onnx.GraphProto) -> None:
    graph.input.append(onnx.helper.make_tensor_value_info("lora_A", 1, [1]))


def half(graph: onnx.GraphProto) -> None:
    graph.input[2].type.tensor_type.elem_type = 10


def untyped(graph: onnx.GraphProto) -> None:
    graph.input[2].type.tensor_type.elem_type = 99


def last_only(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1


def open_vocabulary(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim[2].dim_param = "words"


def headless(graph: onnx.GraphProto) -> None:
    graph.output.pop()


def escaping(graph: onnx.GraphProto) -> None:
    external = next(tensor for tensor in graph.initializer if tensor.external_data)
    external.external_data[0].value = "../secret"


def escaping_sparse(graph: onnx.GraphProto) -> None:
    escaping(graph)
    external = next(tensor for tensor in graph.initializer if tensor.external_data)
    graph.sparse_initializer.add().values.CopyFrom(external)
    external.external_data[0].value = "model.onnx.data"


def escaping_attribute(graph: onnx.GraphProto) -> None:
    escaping(graph)
    external = next(tensor for tensor in graph.initializer if tensor.external_data)
    graph.node[0].attribute.add(name="some", type=onnx.AttributeProto.TENSORS).tensors.append(external)
    external.external_data[0].value = "model.onnx.data"


def absent(graph: onnx.GraphProto) -> None:
    external = next(tensor for tensor in graph.initializer if tensor.external_data)
    external.external_data[0].value = "elsewhere"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (custom, "of 'ai.example' is a custom operator"),
        (compiled, "EPContext: the graph was compiled for one provider"),
        (branching, "chooses what runs by what it computes"),
        (unfed, "wants inputs that nothing here feeds: lora_A$"),
        (half, r"past_key_values\.0\.key is in float16"),
        (untyped, r"past_key_values\.0\.key is in no known type"),
        (last_only, "the last token's logits alone"),
        (open_vocabulary, "neither the graph nor its configuration says its vocab_size"),
        (headless, r"it lacks present\.1\.value"),
        (escaping, "not a plain file name"),
        (escaping_sparse, "'../secret' is not a plain file name"),
        (escaping_attribute, "'../secret' is not a plain file name"),
        (absent, "elsewhere is missing"),
    ],
)
def test_what_a_graph_wants_that_nothing_runs_is_named(
    tmp_path: Path, damage: Callable[[onnx.GraphProto], None], reason: str
) -> None:
    folder = write_genai(tmp_path / "given", vocab_size=None)
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    damage(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    source = read_source_folder(folder)
    with pytest.raises(ExportError, match=reason):
        read_foreign_graph(source.graph, source.names, source.sizes)


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "given")
    (folder / "model.onnx").write_bytes(b"\xff\xffno graph")
    with pytest.raises(ExportError, match=r"model\.onnx is not an ONNX graph"):
        build(folder, tmp_path / "out")


def test_logits_that_no_node_makes_are_refused(tmp_path: Path) -> None:
    folder = write_genai(tmp_path / "given")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    model.graph.node[-1].output[0] = "unseen"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="does not run on the CPU: ONNX Runtime cannot load"):
        build(folder, tmp_path / "out")


def test_a_cache_that_does_not_hold_is_refused(tmp_path: Path) -> None:
    """The second piece of a prompt reads zeros in place of the first one's keys."""
    folder = write_optimum(tmp_path / "given")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    node = next(node for node in model.graph.node if "present.0.key" in node.output)
    blank = onnx.helper.make_node("Sub", [node.input[0], node.input[0]], ["blank"])
    node.input[0] = "blank"
    model.graph.node.insert(list(model.graph.node).index(node), blank)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="its cache is none that can be kept"):
        build(folder, tmp_path / "out")


def test_what_the_cpu_cannot_run_is_told_in_its_words(tmp_path: Path) -> None:
    folder = write_optimum(tmp_path / "given")
    model = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"does not run on the CPU: ONNX Runtime cannot .*NoSuchOperator.*\)$"):
        build(folder, tmp_path / "out")


def test_a_longer_context_than_the_graphs_is_refused(tmp_path: Path) -> None:
    assert ARCHITECTURES["llama3"] is SPEC
    with pytest.raises(ExportError, match="max_model_len is 65, the graph was made for 64 tokens"):
        build(write_genai(tmp_path / "given", context_length=4096), tmp_path / "out", max_model_len=65)
