"""Building packages: what a finished one holds, and what is left of one that was not finished."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from export.checkpoint.precision_policy import plan_from_name
from export.commands.engine import engine_command
from export.commands.export import export_command
from export.commands.inspect import inspect_command
from export.compare.packages import compare
from export.errors import ExportError, QualityError, RecipeError, SourceError
from export.measure import gauge
from export.measure.memory import layerwise_way
from export.package.builder import build_package
from export.progress import Advance, SilentReporter
from export.source.opener import open_source
from export.source.recipe import FileSource, FolderSource, GenerationValues, QualityLimits, Recipe, load_recipe
from runtime.errors import PackageError
from runtime.loading.model_loader import ModelOptions, plan_model
from runtime.package.manifest import PROVENANCE_FILES, load_package
from tests.export.tiny_models import tiny_input_ids, write_tiny_folder
from tests.paths import ROOT


def recipe_of(folder: Path, **changes: object) -> Recipe:
    values = {"name": "tiny", "source": FolderSource(path=str(folder)), "precision": "int8", "quality": QualityLimits()}
    return Recipe(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_tiny_folder(tmp_path / "hf", "llama")


def build(recipe: Recipe, tmp_path: Path) -> Path:
    return build_package(recipe, tmp_path, tmp_path / "models" / "tiny", SilentReporter()).root


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


class _InterruptedAt:
    """Raises KeyboardInterrupt when a stage begins, as Ctrl-C would."""

    def __init__(self, word: str) -> None:
        self.word = word

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
        del total, in_bytes
        if self.word in title:
            raise KeyboardInterrupt
        yield lambda _count: None

    def say(self, text: str) -> None:
        del text


@pytest.mark.parametrize("word", ["Writing", "Measuring"])
def test_an_interrupted_build_leaves_nothing(word: str, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_package(recipe_of(checkpoint), tmp_path, tmp_path / "models" / "tiny", _InterruptedAt(word))
    assert leftovers(tmp_path / "models") == []


KILLED = """
import os, signal, sys
from pathlib import Path
import export.package.builder as builder
from export.progress import SilentReporter
from export.source.recipe import FolderSource, Recipe
write = builder.package.write_manifest
def killed(root, manifest):
    os.kill(os.getpid(), signal.SIGKILL)
builder.package.write_manifest = killed
here = Path(sys.argv[1])
recipe = Recipe(name="tiny", source=FolderSource(path=str(here / "hf")), quality=None)
builder.build_package(recipe, here, here / "models/tiny", SilentReporter())
"""


def test_a_killed_build_is_never_taken_for_a_package(checkpoint: Path, tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "models" / "tiny").exists()
    assert ".tiny.partial" in leftovers(tmp_path / "models")
    build(recipe_of(checkpoint, quality=None), tmp_path)
    assert leftovers(tmp_path / "models") == ["tiny"]


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from powertrain import main
sys.argv = ["powertrain", "export", sys.argv[1], "-o", sys.argv[2], "--no-quality"]
main()
"""


def test_a_full_disk_is_one_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(checkpoint), str(tmp_path / "models" / "tiny")]
    full = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 1
    assert "cannot write the graph's data" in full.stderr
    assert "Traceback" not in full.stderr
    assert leftovers(tmp_path / "models") == []


def test_two_builds_of_one_package_do_not_mix(checkpoint: Path, tmp_path: Path) -> None:
    class Second(SilentReporter):
        @contextmanager
        def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
            with pytest.raises(ExportError, match="another powertrain is building tiny"):
                build(recipe_of(checkpoint, precision="fp32"), tmp_path)
            with SilentReporter().stage(title, total, in_bytes=in_bytes) as advance:
                yield advance

    root = tmp_path / "models" / "tiny"
    assert build_package(recipe_of(checkpoint, quality=None), tmp_path, root, Second()).root == root


class _Untouched(SilentReporter):
    """Fails at the first stage of work."""

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
        del total, in_bytes
        if title:
            pytest.fail(f"{title} began")
        yield lambda _count: None


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({}, "--no-quality to go without the report"),
        ({"precision": "auto"}, "--precision int8 --kv-cache float --no-quality, which measure nothing"),
        ({"precision": "w8a8"}, "--precision int8 --kv-cache float --no-quality"),
        ({"kv_cache": "int8", "quality": None}, "--precision int8 --kv-cache float --no-quality"),
    ],
)
def test_a_machine_too_small_to_measure_is_told_the_numbers_before_anything_is_written(
    changes: dict[str, object], way_out: str, checkpoint: Path, tmp_path: Path
) -> None:
    root = tmp_path / "models" / "tiny"
    words = rf"needs about 0\.2 GiB of memory at the least, 0\.1 GiB are available; .*, or {way_out}"
    with pytest.raises(ExportError, match=words):
        build_package(recipe_of(checkpoint, **changes), tmp_path, root, _Untouched(), available_bytes=100 * 2**20)
    assert not root.exists()
    build_package(recipe_of(checkpoint, quality=None), tmp_path, root, SilentReporter(), available_bytes=0)


class _Heard(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"precision": "int8"}, 1e-4),
        ({"precision": "fp32", "kv_cache": "int8"}, 1e-3),
        ({"precision": "auto"}, 1e-4),
        ({"precision": "nvfp4", "dialects": ("trt",)}, 1e-4),
        ({"precision": "w8a8", "kv_cache": "int8"}, 1e-2),  # a scale's last bit turns codes that lie between two
    ],
)
def test_a_package_measured_layer_by_layer_is_the_same(
    changes: dict[str, object], tolerance: float, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures to rounding, the choices exactly."""
    recipe = recipe_of(checkpoint, quality=QualityLimits(max_mean_kl=1.0), **changes)
    heard, windows = _Heard(), [tiny_input_ids(length) for length in (100, 60, 100)]
    monkeypatch.setattr(gauge, "text_windows", lambda *_: iter(windows))
    whole = build_package(recipe, tmp_path, tmp_path / "whole", heard).manifest
    monkeypatch.setattr(gauge, "choose_way", lambda *given, **_named: layerwise_way(*given))
    monkeypatch.setattr(gauge, "one_ahead", None)  # there is room for one window's logits
    layered = build_package(recipe, tmp_path, tmp_path / "layers", heard).manifest
    assert ["as one graph" in heard.lines[0], "layer by layer" in heard.lines[1]] == [True, True]
    assert whole.quality is not None
    assert layered.quality is not None
    for name in ("mean_kl", "p99_kl", "top1_agreement", "perplexity", "reference_perplexity"):
        assert getattr(layered.quality, name) == pytest.approx(getattr(whole.quality, name), rel=tolerance)
    (kind,) = whole.graphs
    assert layered.graphs[kind].precision.keys() == whole.graphs[kind].precision.keys()
    assert layered.files[f"{kind}/model.onnx.data"].size == whole.files[f"{kind}/model.onnx.data"].size
    assert leftovers(tmp_path / "layers") == leftovers(tmp_path / "whole")


def test_a_disk_too_full_is_noticed_before_writing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=5))
    with pytest.raises(ExportError, match=r"MiB are needed in .*models and 0 MiB are free"):
        build(recipe_of(checkpoint, quality=None), tmp_path)


def test_a_target_that_cannot_be_written_is_one_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ExportError, match=r"cannot be written to \(.*\); choose another folder with -o"):
        build_package(recipe_of(checkpoint), tmp_path, tmp_path / "file" / "tiny", SilentReporter())


def test_a_folder_of_something_else_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="holds other files than a package"):
        build(recipe_of(checkpoint, quality=None), tmp_path)
    assert (tmp_path / "models" / "tiny" / "thesis.txt").read_text() == "mine"


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
