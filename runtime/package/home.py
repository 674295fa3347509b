"""Where packages lie, and which of them a word means: a folder, or a name under that home.

A checkout keeps its packages in ``models/``, an installed powertrain in a folder of the user's cache. Knows no
environment: whoever may read it passes another home. Reads names of folders, never what is in a package.
"""

from __future__ import annotations

from pathlib import Path

from runtime.did_you_mean import nearest
from runtime.errors import PackageError

PACKAGE_FILE = "manifest.json"
"""A folder with this file is a package."""

_CODE = Path(__file__).resolve().parents[2]


def default_home(cache: Path | None = None) -> Path:
    """``models/`` of the checkout that this code lies in, else ``powertrain`` below the user's cache folder.

    ``cache`` is that folder, ``~/.cache`` when None. Raises PackageError for a user without a home folder.
    """
    if (_CODE / "pyproject.toml").is_file():
        return as_typed(_CODE / "models")
    try:
        return (cache or Path.home() / ".cache") / "powertrain"
    except RuntimeError as error:
        raise PackageError("this user has no home folder; name one for packages with POWERTRAIN_HOME") from error


def as_typed(path: Path) -> Path:
    """A path as a person in the current folder would write it: relative where it lies below."""
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):
        return path


def is_package(folder: Path) -> bool:
    """True for a folder that holds a package, whole or not."""
    return (folder / PACKAGE_FILE).is_file()


def packages_below(home: Path) -> list[Path]:
    """Every package of a home, by name."""
    return sorted(path.parent for path in home.glob(f"*/{PACKAGE_FILE}") if not path.parent.name.startswith("."))


def find_package(word: str, home: Path) -> Path:
    """The folder of the package that ``word`` names: a path, or a name under ``home``. Raises PackageError."""
    named = home / word
    for folder in (Path(word), named) if is_name(word) else (Path(word),):
        if is_package(folder):
            return folder
    raise PackageError(no_package(word, home))


def is_name(word: str) -> bool:
    """True for a word that can only be a folder's name, not a path."""
    return word not in {"", ".", ".."} and "/" not in word


def no_package(word: str, home: Path) -> str:
    """What to say of a word that names no package: the nearest that is one, else how to get one."""
    if near := nearest_package(word, home):
        advice = f"did you mean {near}?"
    elif known := packages_below(home):
        advice = f"there are {', '.join(map(str, known))}"
    else:
        advice = "build one with 'powertrain export MODEL'"
    return f"there is no package at {word}, nor one of that name in {home}; {advice}"


def nearest_package(word: str, home: Path) -> Path | None:
    """The package whose name is nearest to what was typed; None when none is near."""
    known = {folder.name: folder for folder in packages_below(home)}
    near = nearest(Path(word).name, known)
    return known[near] if near else None


def only_package(home: Path) -> Path:
    """The only package of a home. Raises PackageError naming the choices, or how to build one."""
    folders = packages_below(home)
    if len(folders) == 1:
        return folders[0]
    if not folders:
        start = "'powertrain serve MODEL', for example with smollm2-135m-instruct, builds one and serves it"
        raise PackageError(f"no model package in {home}; {start}")
    raise PackageError(f"several packages in {home}: say which one: {', '.join(map(str, folders))}")
