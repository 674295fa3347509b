"""What a person typed as MODEL -> a recipe: a recipe's file or name, a GGUF file, a folder, or a hub repository."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.did_you_mean import nearest
from runtime.package.home import as_typed, is_name

from export.errors import RecipeError
from export.source.hub import is_repo_id
from export.source.recipe import FileSource, FolderSource, HubSource, Recipe, load_recipe

_ROOM = Path(__file__).resolve().parents[1]
_FORMS = "a package, a recipe (its file or name), a GGUF file, a Hugging Face folder nor a hub repository (owner/name)"


def recipe_from_argument(text: str, home: Path, revision: str = "main") -> tuple[Recipe, Path]:
    """(recipe, folder that its relative paths, its cache and its package count from). Raises RecipeError.

    ``home`` is that folder for everything but a recipe's file, which has its own.
    """
    path = Path(text)
    if path.suffix == ".toml":
        return load_recipe(path), home if path.parent.resolve() == recipes_folder() else path.parent
    if is_name(text) and not path.exists():
        for folder in (home, recipes_folder()):
            if (folder / f"{text}.toml").is_file():
                return load_recipe(folder / f"{text}.toml"), home
    if path.is_dir():
        source = FolderSource(path=str(path.absolute()))
        return Recipe(name=_folder_name(path.resolve().name), source=source), home
    if path.is_file() or path.suffix == ".gguf":
        return Recipe(name=_folder_name(path.stem), source=FileSource(path=str(path.absolute()))), home
    if is_repo_id(text) and not (path.parent.is_dir() or path.parts[0] == "models"):
        name = _folder_name(text.split("/")[1])
        return Recipe(name=name, served_names=(text,), source=HubSource(repo=text, revision=revision)), home
    raise RecipeError(f"{text}: neither {_FORMS}{_nearest(path, home)}")


def recipes_folder() -> Path:
    """Where the recipes that come with powertrain lie: inside an installed one, in a checkout's ``models/``."""
    installed = _ROOM / "recipes"
    return installed if installed.is_dir() else _ROOM.parent / "models"


def _nearest(path: Path, home: Path) -> str:
    """The recipe whose name is nearest to what was typed, else all of them, as the end of a sentence."""
    recipes = {file.stem: file for folder in (recipes_folder(), home) for file in folder.glob("*.toml")}
    near = nearest(path.name.removesuffix(".toml"), recipes)
    if near:
        return f"; did you mean {near} ({as_typed(recipes[near])})?"
    return f"; the recipes here: {', '.join(sorted(recipes))}" if recipes else ""


def _folder_name(text: str) -> str:
    """``text`` in lower case with everything that a folder's name should not hold made a dash."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-.") or "model"
