"""Folders on a read-only file system: one line that says so, exit status 1, nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEFAULT_MODEL
from tests.export.tiny_models import write_tiny_folder
from tests.export.tiny_package import write_package
from tests.paths import MODELS, ROOT

READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


def run_with(read_only: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of ours that sees ``read_only`` as a read-only file system, in a mount namespace of its own."""
    namespace = ["unshare", "--mount", "--map-root-user"]
    try:
        allowed = subprocess.run([*namespace, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this machine lets nobody make a mount namespace (unshare --mount --map-root-user)")
    ours = [sys.executable, "-m", "powertrain", *words]
    command = [*namespace, "sh", "-c", READ_ONLY, "sh", str(read_only), *ours]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.replace("\u2502", " ").split())


def test_an_export_into_a_read_only_folder(tmp_path: Path) -> None:
    checkpoint, models = write_tiny_folder(tmp_path / "hf", "llama"), tmp_path / "models"
    models.mkdir()
    done = run_with(models, "export", str(checkpoint), "-o", str(models / "tiny"), "--no-quality")
    assert "cannot be written to (Read-only file system); choose another folder with -o" in refusal(done)
    assert list(models.iterdir()) == []


def test_an_export_with_a_read_only_cache(tmp_path: Path) -> None:
    recipe = Path(shutil.copy(MODELS / f"{DEFAULT_MODEL}.toml", tmp_path))
    cache = tmp_path / ".cache"
    cache.mkdir()
    done = run_with(cache, "export", str(recipe), "-o", str(tmp_path / "out" / "tiny"))
    assert "cannot be written to (Read-only file system)" in refusal(done)
    assert list(cache.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_a_plan_into_a_read_only_package(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
    root = write_package(tmp_path / "models" / "tiny").root
    before = sorted(path.name for path in (root / "trt").iterdir())
    done = run_with(root.parent, "engine", str(root), "--target", "sm89")
    assert "cannot be written to (Read-only file system); build in a copy of the package" in refusal(done)
    assert sorted(path.name for path in (root / "trt").iterdir()) == before
