"""Have the files that a recipe does not pin by digest changed? Asked of names, sizes and times; opens none of them."""

from __future__ import annotations

from pathlib import Path

from runtime.adapters.config import adapter_files

from export.source.recipe import FileSource, FolderSource, Recipe


def stat_fingerprint(recipe: Recipe, base: Path) -> str:
    """Changes when files that the recipe does not pin by digest do: their names, sizes and times."""
    match recipe.source:
        case FileSource(sha256=None) as source:
            paths = [base / source.path]
        case FolderSource() as source:
            paths = sorted((base / source.path).glob("*"))
        case _:
            paths = []
    if recipe.chat_template is not None:
        paths.append(base / recipe.chat_template)
    if recipe.adapter is not None:
        paths += adapter_files(base / recipe.adapter)
    known = [(path.name, path.stat()) for path in paths if path.is_file()]
    return " ".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in known)
