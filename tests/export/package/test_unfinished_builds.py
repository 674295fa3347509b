"""Builds that end early, or must not begin: nothing is left that anybody could take for a package."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.errors import ExportError
from export.measure import gauge
from export.measure.memory import layerwise_way
from export.package.builder import build_package
from export.progress import Advance, SilentReporter
from export.source.recipe import QualityLimits
from tests.export.package.tiny_builds import build, leftovers, recipe_of
from tests.export.tiny_models import tiny_input_ids
from tests.paths import ROOT


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
    said = " ".join(full.stderr.replace("\u2502", " ").split())
    assert "cannot write the graph's data, " in said
    assert "model.onnx.data: File too large; raise the limit on the size of files (ulimit -f)" in said
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
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=5 * 1024))
    with pytest.raises(ExportError, match=r"^80 KiB are needed in .*models and 5 KiB are free; free"):
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
