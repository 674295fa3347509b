"""A package's graph under ONNX Runtime GenAI's inputs, and what its ``genai_config.json`` says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import powertrain
from export.errors import ExportError, UnsupportedError
from export.interop.folder import convert
from export.interop.genai import genai_config
from export.interop.masked_graph import masked_graph
from export.package.workspace import recorded_files
from runtime.package import graph_io
from runtime.package.manifest import Package, load_package, write_manifest
from tests.export.graph_runs import GraphRun
from tests.export.random_checkpoint import ARCHITECTURES, write_ort
from tests.export.tiny_models import tiny_tokenizer_json
from tests.export.tiny_package import write_package

SPEC = ARCHITECTURES["llama"]
IDS = np.array([[5, 9, 33, 60, 61], [7, 18, 41, 0, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """A float32 decoder with texts."""
    root = tmp_path_factory.mktemp("interop") / "tiny"
    made = write_package(root, with_trt=False)
    (root / "tokenizer.json").write_text(tiny_tokenizer_json(SPEC.vocab_size))
    (root / "generation_config.json").write_text('{"temperature": 0, "top_k": -1, "eos_token_id": [2]}')
    return changed(made, stop_token_ids=(2,), special_tokens={"bos_token": "<s>", "eos_token": "</s>"})


def changed(package: Package, **changes: Any) -> Package:
    """The package with another manifest, which names every file that is there."""
    (package.root / "manifest.json").unlink()
    files = recorded_files(package.root)
    write_manifest(package.root, msgspec.structs.replace(package.manifest, files=files, **changes))
    return load_package(package.root)


def test_a_mask_stands_for_lengths_and_the_last_tokens_logits_come(tmp_path: Path) -> None:
    """Two rows of 5 and 3 tokens, then one more for each, against each row alone in the graph as it was."""
    path = write_ort(SPEC, tmp_path)
    made = masked_graph(onnx.load(str(path), load_external_data=False), SPEC.vocab_size, SPEC.num_layers)
    (tmp_path / "genai.onnx").write_bytes(made.SerializeToString())
    run = GraphRun(tmp_path / "genai.onnx", SPEC, rows=2)
    names = [graph_io.LOGITS, *run.present]
    first, *presents = run.session.run(names, run.cache | {"input_ids": IDS, "attention_mask": MASK})
    cache = dict(zip(run.present.values(), presents, strict=True))
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 1]], np.int64)
    second, *_ = run.session.run(names, cache | {"input_ids": np.array([[12], [90]]), "attention_mask": mask})
    assert first.shape == second.shape == (2, 1, SPEC.vocab_size)
    for row, (ids, following) in enumerate((([5, 9, 33, 60, 61], 12), ([7, 18, 41], 90))):
        alone = GraphRun(path, SPEC)
        np.testing.assert_allclose(first[row, 0], alone(np.array([ids]), [0])[-1], atol=1e-5)
        np.testing.assert_allclose(second[row, 0], alone(np.array([[following]]), [len(ids)])[0], atol=1e-5)


def test_a_graph_with_other_inputs_is_refused(tmp_path: Path) -> None:
    model = onnx.load(str(write_ort(SPEC, tmp_path)), load_external_data=False)
    model.graph.input[1].name = "adapter"
    with pytest.raises(UnsupportedError, match=r"not those of powertrain's ort graphs: adapter, seqlens_k"):
        masked_graph(model, SPEC.vocab_size, SPEC.num_layers)


def test_the_config_says_what_the_package_does(package: Package) -> None:
    assert genai_config(package, package.manifest.graphs["ort"]) == {
        "model": {
            "bos_token_id": 1,
            "context_length": 64,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": 16,
                "hidden_size": 64,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": 4,
                "num_hidden_layers": 2,
                "num_key_value_heads": 2,
            },
            "eos_token_id": [2],
            "pad_token_id": 2,
            "type": "decoder",
            "vocab_size": 97,
        },
        "search": {
            "do_sample": False,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "repetition_penalty": 1.0,
            "max_length": 64,
            "past_present_share_buffer": True,
        },
    }
    for_gpus = msgspec.structs.replace(package.manifest.graphs["ort"], providers=("cuda",))
    options = genai_config(package, for_gpus)["model"]["decoder"]["session_options"]["provider_options"]
    assert options == [{"cuda": {}}]


def test_the_command_writes_a_whole_folder_once(package: Package, tmp_path: Path) -> None:
    words = ["convert", str(package.root), "--to", "genai", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(powertrain.main, words)
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "tokenizer.json", "tokenizer_config.json", "genai_config.json"}
    assert (tmp_path / "out/model.onnx.data").read_bytes() == package.path("ort/model.onnx.data").read_bytes()
    config = msgspec.json.decode((tmp_path / "out/tokenizer_config.json").read_bytes())
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    load_package(package.root)  # its files are nowhere linked
    again = CliRunner().invoke(powertrain.main, words)
    assert again.exit_code == 1
    assert "is there already; choose another folder" in " ".join(again.output.replace("│", " ").split())


def test_the_command_says_that_it_leaves_plans_out(package: Package, tmp_path: Path) -> None:
    root = shutil.copytree(package.root, tmp_path / "planned")
    words = ["convert", str(root), "--to", "triton", "-o", str(tmp_path / "out")]
    (root / "trt").mkdir()
    for target in ("sm89", "sm120"):
        (root / f"trt/{target}.plan").write_bytes(b"plan")
    result = CliRunner().invoke(powertrain.main, words)
    assert result.exit_code == 0, result.output
    assert "Left out: the TensorRT plans for sm120, sm89, which write into their caches in place" in result.stderr
    assert not list((tmp_path / "out").rglob("*.plan"))


def test_what_genai_cannot_take_is_named(package: Package, tmp_path: Path) -> None:
    manifest, graph = package.manifest, package.manifest.graphs["ort"]
    int8 = {"ort": msgspec.structs.replace(graph, kv_dtype="int8")}
    for changes, reason in (
        ({"graphs": {"trt": graph}}, r"holds no ort graph \(it holds: trt\), the only one for ONNX Runtime GenAI"),
        ({"graphs": int8}, "int8 cache; export it with --kv-cache float"),
        ({"spec": {}}, "made of a foreign graph"),
        ({"stop_token_ids": ()}, "names no token that ends an answer"),
    ):
        other = Package(package.root, msgspec.structs.replace(manifest, **changes))
        with pytest.raises(ExportError, match=reason):
            convert(other, "genai", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
