"""What a person typed as SOURCE -> a recipe: a recipe file, a GGUF file, a folder, or a hub repository."""

from __future__ import annotations

import re
from pathlib import Path

from export.errors import RecipeError
from export.source.hub import is_repo_id
from export.source.recipe import FileSource, FolderSource, HubSource, Recipe, load_recipe

MODELS_FOLDER = Path("models")


def recipe_from_argument(text: str, revision: str = "main") -> tuple[Recipe, Path]:
    """(recipe, folder that its relative paths and its cache count from). Raises RecipeError."""
    path = Path(text)
    if path.suffix == ".toml":
        return load_recipe(path), path.parent
    if path.is_dir():
        source = FolderSource(path=str(path.absolute()))
        return Recipe(name=_folder_name(path.resolve().name), source=source), MODELS_FOLDER
    if path.is_file() or path.suffix == ".gguf":
        return Recipe(name=_folder_name(path.stem), source=FileSource(path=str(path.absolute()))), MODELS_FOLDER
    if is_repo_id(text):
        name = _folder_name(text.split("/")[1])
        return Recipe(name=name, served_names=(text,), source=HubSource(repo=text, revision=revision)), MODELS_FOLDER
    raise RecipeError(f"{text}: neither a recipe (.toml), a GGUF file, a folder nor a hub repository (owner/name)")


def _folder_name(text: str) -> str:
    """``text`` in lower case with everything that a folder's name should not hold made a dash."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "model"
