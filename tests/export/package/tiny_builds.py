"""A tiny checkpoint's recipe, built, and what a build left behind."""

from __future__ import annotations

from pathlib import Path

from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, QualityLimits, Recipe


def recipe_of(folder: Path, **changes: object) -> Recipe:
    values = {"name": "tiny", "source": FolderSource(path=str(folder)), "precision": "int8", "quality": QualityLimits()}
    return Recipe(**(values | changes))  # type: ignore[arg-type]


def build(recipe: Recipe, tmp_path: Path) -> Path:
    return build_package(recipe, tmp_path, tmp_path / "models" / "tiny", SilentReporter()).root


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
