"""Recipes, arguments and files that the commands around packages take or refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.commands.export import export_command
from export.commands.inspect import inspect_command
from export.errors import RecipeError, SourceError
from export.source.recipe import FileSource, load_recipe
from tests.export.package.tiny_builds import build, recipe_of


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name = 3", "Expected `str`, got `int`"),
        ('name = "x"', "source"),
        ('name = "x"\ncolour = "red"\n[source]\nkind = "file"\npath = "a"', "unknown field `colour`"),
        ('name = "x"\n[source]\nkind = "ftp"', "Invalid value 'ftp'"),
        ('name = "../x"\n[source]\nkind = "file"\npath = "a"', "cannot be a folder"),
        ('name = "x"\nmax_model_len = 0\n[source]\nkind = "file"\npath = "a"', "max_model_len is 0"),
        ('name = "x"\ndialects = []\n[source]\nkind = "file"\npath = "a"', "dialects are none; choose 'ort'"),
        ('name = "x"\n[generation]\ntemperature = 3\n[source]\nkind = "file"\npath = "a"', "<= 2.0"),
        ('name = "x"\n[generation]\nheat = 1\n[source]\nkind = "file"\npath = "a"', "unknown field `heat`"),
        ("name = [", "Invalid"),
    ],
)
def test_recipes_are_read_strictly(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "r.toml")
    assert words in str(caught.value)


def test_a_file_with_another_digest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    recipe = recipe_of(tmp_path, source=FileSource(path="x.gguf", sha256="0" * 64))
    with pytest.raises(SourceError, match=r"x.gguf has sha256 [0-9a-f]{64}, the recipe says 0{64}"):
        build(recipe, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["nowhere/at/all"],
            "neither a package, a recipe (its file or name), a GGUF file, a Hugging Face folder nor a hub",
        ),
        (["missing.toml"], "cannot be read"),
        (["missing.gguf"], "no such file"),
        (["HF", "--precision", "int7"], "choose one of fp32, fp16, bf16, int8, int4, fp8, nvfp4, auto"),
        (["HF", "--block", "48"], "block 48 is not possible"),
        (["HF", "--max-model-len", "4096"], "the model was made for 128 tokens"),
        (["HF", "--dialect", "cuda"], "choose 'ort'"),
        (["HF", "--precision", "auto", "--no-quality"], "needs a budget"),
        (["HF", "--precision", "fp8", "--dialect", "ort,trt"], "'fp8' is for TensorRT alone"),
        (["HF", "--precision", "fp8", "--block", "64"], "block 64 is not possible; fp8 has one scale per output"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_1(
    arguments: list[str], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    given = [str(checkpoint) if argument == "HF" else argument for argument in arguments]
    result = CliRunner().invoke(export_command, [*given, "-o", str(tmp_path / "out" / "tiny")])
    assert result.exit_code == 1
    assert words in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out" / "tiny").exists()


def test_explain_and_dry_run_write_nothing(checkpoint: Path, tmp_path: Path) -> None:
    for flag in ("--explain", "--dry-run"):
        words = [str(checkpoint), flag, "-o", str(tmp_path / "out"), "--precision", "int4", "--max-kl", "0.3"]
        result = CliRunner().invoke(export_command, words)
        assert result.exit_code == 0, result.output
        assert "int4, block as usual, float cache" in result.output
        assert "mean KL of at most 0.3" in result.output
        assert "67,904 in 20 tensors" in result.output
    assert "nothing was written" in result.output
    assert not (tmp_path / "out").exists()


def test_inspect_shows_a_package_and_refuses_an_altered_one(checkpoint: Path, tmp_path: Path) -> None:
    root = build(recipe_of(checkpoint), tmp_path)
    shown = CliRunner().invoke(inspect_command, [str(root)])
    assert shown.exit_code == 0
    assert "int8 block 64" in shown.output
    assert json.loads(CliRunner().invoke(inspect_command, [str(root), "--json"]).output)["name"] == "tiny"
    data = bytearray((root / "tokenizer.json").read_bytes())
    data[5] ^= 1
    (root / "tokenizer.json").write_bytes(data)
    refused = CliRunner().invoke(inspect_command, [str(root)])
    assert refused.exit_code == 1
    assert "tokenizer.json" in refused.output
