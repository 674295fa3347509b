"""What a package, a recipe and the command line say of adapters, and when one asks for another package."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from export.commands.export import export_command
from export.commands.inspect import inspect_command
from export.errors import QualityError, RecipeError, UnsupportedError
from export.measure import gauge
from export.package.builder import build_package
from export.package.optimum import build_optimum_package
from export.pipeline.cache import Stored, new_entry
from export.pipeline.steps import FetchStep, PackageStep
from export.progress import Reporter, SilentReporter
from export.source.opener import open_source
from export.source.recipe import LoraRoom, QualityLimits, check_recipe
from runtime.adapters.fitted import fitted
from runtime.adapters.peft import read_adapter
from runtime.errors import AdapterError
from runtime.loading.model_loader import adapter_room
from runtime.package.manifest import load_package
from tests.export.graph.adapted import (
    built,
    logits,
    package_of,
    recipe_of,
    session_of,
    tiny_adapter,
)
from tests.export.source.hf.test_gptq import write_folder as write_gptq_folder
from tests.export.tiny_models import write_tiny_folder


def test_the_manifest_tells_of_room_and_of_what_was_merged(folder: Path) -> None:
    plain, room, merged = (package_of(folder, name) for name in ("plain", "room", "merged"))
    for package in (plain, merged):
        assert b'"adapters"' not in (package.root / "manifest.json").read_bytes()
    assert b'"adapter"' not in (plain.root / "manifest.json").read_bytes()
    info, adapter = merged.manifest.source.adapter, read_adapter(folder / "one")
    assert isinstance(info, msgspec.Struct)
    assert (info.name, info.sha256) == ("one", adapter.digest)
    found = adapter_room(room)
    assert found is not None
    assert found.roles == ("q", "k", "v", "o", "gate", "up", "down")
    assert found.adapter_bytes == sum(
        4 * 2 * blocks * 16 * (inputs + outputs)
        for blocks, inputs, outputs in ((2, 64, 128), (1, 64, 64), (2, 64, 192), (1, 96, 64))
    )
    with pytest.raises(ValueError, match="no room"):
        session_of(plain).set_adapter(0, fitted(adapter, found))


def test_a_changed_adapter_is_another_package_and_none_the_digest_it_always_had(folder: Path, tmp_path: Path) -> None:
    fields = msgspec.structs.asdict(recipe_of(folder / "hf"))
    assert recipe_of(folder / "hf").digest() == recipe_of(folder / "hf", adapter=None).digest()
    assert {"adapter", "lora"} < fields.keys()
    first = tiny_adapter(tmp_path / "a", "llama")
    recipe = recipe_of(folder / "hf", adapter=str(first))
    build_package(recipe, tmp_path, tmp_path / "p", SilentReporter())
    assert build_package(recipe, tmp_path, tmp_path / "p", SilentReporter()).was_up_to_date
    tiny_adapter(first, "llama", seed=5)
    again = build_package(recipe, tmp_path, tmp_path / "p", SilentReporter())
    assert not again.was_up_to_date
    opened = [open_source(one, tmp_path, SilentReporter()) for one in (recipe, recipe_of(folder / "hf"))]
    assert opened[0].info.sha256 == opened[1].info.sha256 == opened[1].weights_sha256 != opened[0].weights_sha256


def test_what_cannot_be_is_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    for changes in ({"precision": "fp16"}, {"precision": "bf16"}, {"dialects": ("ort", "trt")}):
        with pytest.raises(RecipeError, match="room for adapters needs a graph for the CPU"):
            check_recipe(recipe_of(folder / "hf", lora=LoraRoom(), **changes))
    with pytest.raises(RecipeError, match="lora targets are lm_head; choose among q_proj"):
        check_recipe(recipe_of(folder / "hf", lora=LoraRoom(targets=("lm_head",))))
    other = write_tiny_folder(tmp_path / "qwen3", "qwen3")
    with pytest.raises(AdapterError, match="has 32 outputs, the model's has 64; it was trained for another model"):
        open_source(recipe_of(other, adapter=str(folder / "one")), tmp_path, SilentReporter())
    with pytest.raises(UnsupportedError, match="native exporter alone"):
        build_optimum_package(recipe_of(folder / "hf", lora=LoraRoom()), tmp_path, tmp_path / "o", SilentReporter())


def test_nothing_is_merged_into_codes(folder: Path, tmp_path: Path) -> None:
    quantization = {"quant_method": "gptq", "bits": 8, "group_size": 32, "sym": True, "desc_act": False}
    write_gptq_folder(tmp_path / "gptq", quantization, "llama")
    with pytest.raises(UnsupportedError, match=r"layers.0.\w+: its codes are quantized already"):
        open_source(recipe_of(tmp_path / "gptq", adapter=str(folder / "one")), tmp_path, SilentReporter())


def test_the_command_line_merges_and_makes_room(folder: Path, tmp_path: Path) -> None:
    words = [str(folder / "hf"), "--precision", "fp32", "-o", str(tmp_path / "p"), "--adapter", str(folder / "one")]
    given = [*words, "--lora-rank", "4", "--lora-targets", "q_proj,down_proj"]
    explained = CliRunner().invoke(export_command, [*given, "--explain"], env={"COLUMNS": "200"})
    assert "adapters of rank 4 on q_proj, down_proj" in explained.output
    assert "one, merged into the weights" in explained.output
    done = CliRunner().invoke(export_command, [*given, "--no-quality"])
    assert done.exit_code == 0, done.output
    package = load_package(tmp_path / "p")
    room = adapter_room(package)
    assert room is not None
    assert (room.rank, room.roles) == (4, ("q", "down"))
    assert not isinstance(package.manifest.source.adapter, msgspec.UnsetType)
    narrow = "".join(CliRunner().invoke(inspect_command, [str(tmp_path / "p")], env={"COLUMNS": "60"}).output.split())
    assert package.manifest.files["tokenizer.json"].sha256[:50] in narrow  # folded, not cut
    assert "…" not in narrow
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "p")], env={"COLUMNS": "200"}).output
    assert "one (sha256 " in shown
    assert "rank up to 4 on q, down, 0.0 MB each" in shown
    session, merged = session_of(package), session_of(package_of(folder, "merged"))
    assert np.abs(logits(session) - logits(merged)).max() < 3  # the other is in int8
    wrong = CliRunner().invoke(export_command, [*words, "--lora-rank", "0"], env={"COLUMNS": "200"})
    assert "--lora-rank 0: Expected `int` >= 1" in wrong.output


def test_a_choice_for_the_plain_weights_does_not_hold_for_merged_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, asked = recipe_of(folder / "hf", adapter=str(folder / "one"), precision="w8a8"), []

    def choose(_gauge: gauge.Gauge, weights_sha256: str, _reporter: Reporter) -> None:
        asked.append(weights_sha256)
        raise QualityError("enough")

    monkeypatch.setattr(gauge.Gauge, "choose", choose)
    with pytest.raises(QualityError, match="enough"):
        built(msgspec.structs.replace(recipe, quality=QualityLimits()), tmp_path)
    opened = open_source(recipe, tmp_path, SilentReporter())
    assert asked == [opened.weights_sha256] != [opened.info.sha256]


def test_a_pipeline_fetches_the_base_once_and_builds_anew_for_another_adapter(folder: Path) -> None:
    recipes = [
        recipe_of(folder / "hf", adapter=adapter) for adapter in (None, str(folder / "one"), str(folder / "two"))
    ]
    fetches = [FetchStep("tiny", (), recipe, folder) for recipe in recipes]
    assert fetches[0].inputs({}) == fetches[1].inputs({})
    assert fetches[1].task({}, 0).recipe.adapter is None
    facts = {"weights": "w", "licence": ""}
    entry = new_entry(folder / "one", kind="fetch", label="tiny", key="0", inputs={}, facts=facts)
    done = {"fetch": Stored(entry, folder)}
    found = [PackageStep("tiny", ("fetch",), recipe).inputs(done)["adapter"] for recipe in recipes]
    assert found == ["none", read_adapter(folder / "one").digest, read_adapter(folder / "two").digest]
