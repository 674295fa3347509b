"""What a finished package holds, for every precision and for every runtime."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.checkpoint.precision_policy import plan_from_name
from export.commands.engine import engine_command
from export.commands.export import export_command
from export.commands.inspect import inspect_command
from export.compare.packages import compare
from export.errors import QualityError
from export.measure import gauge
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.opener import open_source
from export.source.recipe import GenerationValues, QualityLimits
from runtime.errors import PackageError
from runtime.loading.model_loader import ModelOptions, plan_model
from runtime.package.manifest import PROVENANCE_FILES, load_package
from tests.export.package.tiny_builds import build, leftovers, recipe_of
from tests.export.tiny_models import tiny_input_ids


def test_a_package_is_whole_verified_and_measured(checkpoint: Path, tmp_path: Path) -> None:
    package = load_package(build(recipe_of(checkpoint, served_names=("a/tiny", "tiny")), tmp_path))
    manifest = package.manifest
    assert set(manifest.files) == {
        "bom.cdx.json", "generation_config.json", "ort/model.onnx", "ort/model.onnx.data", "provenance.intoto.json",
        "tokenizer.json"}  # fmt: skip
    assert manifest.served_names == ("a/tiny", "tiny")
    assert manifest.shape.num_layers == 2
    assert manifest.stop_token_ids == (2,)
    assert manifest.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert manifest.max_model_len == 128
    graph = manifest.graphs["ort"]
    assert graph.precision == {
        "embedding": "int8 block 64",
        "attention": "int8 block 64",
        "mlp": "int8 block 32, int8 block 64",  # 96 columns of the last projection divide by 32
        "head": "int8 block 64",
    }
    # Per layer 12,288 weights of 64-column blocks (qkv, o), 12,288 (gate, up), 6,144 of 32-column blocks, two norms.
    per_layer = 12_288 * (1 + 4 / 64) + 12_288 * (1 + 4 / 64) + 6_144 * (1 + 4 / 32) + 2 * 64 * 4
    assert graph.weight_bytes == 2 * per_layer + 64 * 4 + 96 * 64 * (1 + 4 / 64)
    assert manifest.quality is not None
    assert 0 < manifest.quality.mean_kl < 0.05
    assert manifest.quality.top1_agreement > 0.8
    assert leftovers(tmp_path / "models") == ["tiny"]


def test_the_recipes_sampling_values_go_before_the_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    own = {"temperature": 0.6, "top_k": 40, "eos_token_id": 2}
    (checkpoint / "generation_config.json").write_text(json.dumps(own))
    recipe = recipe_of(checkpoint, quality=None, generation=GenerationValues(temperature=0.2, top_p=0.9))
    root = build(recipe, tmp_path)
    found = json.loads((root / "generation_config.json").read_text())
    assert found == {"temperature": 0.2, "top_k": 40, "top_p": 0.9, "eos_token_id": [2]}
    assert recipe.digest() != recipe_of(checkpoint, quality=None).digest()


def test_a_second_build_does_nothing_until_something_changes(checkpoint: Path, tmp_path: Path) -> None:
    recipe, root = recipe_of(checkpoint), tmp_path / "tiny"
    first = build_package(recipe, tmp_path, root, SilentReporter())
    assert not first.was_up_to_date
    assert build_package(recipe, tmp_path, root, SilentReporter()).was_up_to_date
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-6}))
    assert not build_package(recipe, tmp_path, root, SilentReporter()).was_up_to_date
    (root / "ort" / "model.onnx.data").write_bytes(b"short")
    assert not build_package(recipe, tmp_path, root, SilentReporter()).was_up_to_date


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores, to use one of them")
def test_the_same_inputs_give_the_same_bytes_elsewhere_and_with_other_threads(checkpoint: Path, tmp_path: Path) -> None:
    """Both dialects, the quality and golden rows."""
    shutil.copytree(checkpoint, tmp_path / "elsewhere" / checkpoint.name)
    recipe = recipe_of(Path(checkpoint.name), dialects=("ort", "trt"), precision="fp16")
    here = build_package(recipe, tmp_path, tmp_path / "one", SilentReporter())
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        there = build_package(recipe, tmp_path / "elsewhere", tmp_path / "far" / "two", SilentReporter())
    finally:
        os.sched_setaffinity(0, cores)
    found = compare(load_package(here.root), load_package(there.root))
    assert found.is_empty, found.differences


def test_a_package_over_its_limit_is_not_handed_over(checkpoint: Path, tmp_path: Path) -> None:
    good = build(recipe_of(checkpoint), tmp_path)
    before = load_package(good).manifest
    with pytest.raises(
        QualityError, match=r"mean KL against float32 is \d+\.\d{4} nats per token, the limit is 0.0001"
    ):
        build(recipe_of(checkpoint, precision="int4", quality=QualityLimits(max_mean_kl=0.0001)), tmp_path)
    assert load_package(good).manifest == before
    assert leftovers(tmp_path / "models") == ["tiny"]


def test_auto_keeps_within_its_budget_and_says_what_it_chose(checkpoint: Path, tmp_path: Path) -> None:
    package = load_package(
        build(recipe_of(checkpoint, precision="auto", quality=QualityLimits(max_mean_kl=1.0)), tmp_path)
    )
    precision = package.manifest.graphs["ort"].precision
    assert package.manifest.quality is not None
    assert package.manifest.quality.mean_kl <= 1.0
    assert any(text.startswith("int4 block 32, +0.") for text in precision.values())
    assert "int4" in precision["attention"] + precision["mlp"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_every_precision_builds(precision: str, checkpoint: Path, tmp_path: Path) -> None:
    """float32 is its own reference, and bfloat16 runs on no CPU: those two carry no figures."""
    loose = QualityLimits(max_mean_kl=3.0)
    manifest = load_package(build(recipe_of(checkpoint, precision=precision, quality=loose), tmp_path)).manifest
    assert (manifest.quality is None) == (precision in {"fp32", "bf16"})
    assert manifest.graphs["ort"].kv_dtype == {"fp16": "float16", "bf16": "bfloat16"}.get(precision, "float32")


def test_a_package_for_tensorrt_alone(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No CPU runs it: its report is of its stored weights in float32, and whoever wants the CPU is told what to do."""
    monkeypatch.setattr(gauge, "text_windows", lambda *_: iter([tiny_input_ids(100)]))
    root = tmp_path / "models" / "tiny"
    words = [str(checkpoint), "--precision", "fp8", "--max-kl", "0.5", "-o", str(root)]
    explained = CliRunner().invoke(export_command, [*words, "--explain"], env={"COLUMNS": "200"})
    assert explained.output.count("for TensorRT alone") == 2
    built = CliRunner().invoke(export_command, words)
    assert built.exit_code == 0, built.output
    manifest = load_package(root).manifest
    assert (list(manifest.graphs), list(manifest.graphs["trt"].providers)) == (["trt"], ["tensorrt", "tensorrt-rtx"])
    forms = dict.fromkeys(("attention", "head", "mlp"), "fp8 per channel") | {"embedding": "float16"}
    assert manifest.graphs["trt"].precision == forms
    # Codes are a byte each, and each output has a float16 scale; norms are float16.
    per_layer = 30_720 + 2 * (128 + 64 + 192 + 64) + 2 * 64 * 2
    assert manifest.graphs["trt"].weight_bytes == 2 * per_layer + 64 * 2 + 96 * 64 + 96 * 2
    assert manifest.quality is not None
    assert 0.01 < manifest.quality.mean_kl < 0.5  # 0.0025 in int8, 0.000006 in fp16
    assert manifest.golden is not None
    texts = ["generation_config.json", "tokenizer.json"]
    files = [*texts, "golden.bin", "manifest.json", *PROVENANCE_FILES, "selection", "trt"]
    assert leftovers(root) == sorted(files)
    assert manifest.selection is not None
    assert manifest.selection.path == "selection/model.onnx"
    assert "fp8 per channel" in CliRunner().invoke(inspect_command, [str(root)]).output
    with pytest.raises(PackageError, match="no graph for ONNX Runtime, so the CPU cannot run it; serve it on a GPU"):
        plan_model(load_package(root), ModelOptions())
    refused = CliRunner().invoke(engine_command, [str(root), "--target", "sm86"])
    assert refused.exit_code == 1
    assert (
        "sm86 has no fp8 arithmetic, and weights of this package are fp8; choose a --target of compute capability 8.9 "
        "or newer (sm89, sm120, sm121), or export for sm86 with --precision int8 --dialect ort,trt"
    ) in " ".join(refused.output.replace("│", " ").split())
    failed = CliRunner().invoke(export_command, [*words, "--max-kl", "0.0001"])
    assert "the limit is 0.0001" in failed.output
    assert load_package(root).manifest == manifest


def test_stored_weights_alone_are_measured_with_a_twin_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    recipe = recipe_of(checkpoint, dialects=("trt",))
    found = open_source(recipe, tmp_path, SilentReporter()).checkpoint
    tokenizer, plan = found.text_files().tokenizer_json, plan_from_name("int8")
    made = [
        gauge.prepare_gauge(one, found, plan, 64, tokenizer_json=tokenizer, scratch=tmp_path, reporter=SilentReporter())
        for one in (recipe, recipe_of(checkpoint))
    ]
    head = 4 * 96 * 64  # a tied one is stored apart
    assert made[0][1].scratch_bytes == 2 * (made[1][1].scratch_bytes + head)
