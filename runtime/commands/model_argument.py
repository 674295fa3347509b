"""The MODEL argument of every command: what may be written there, and how a shell completes it.

Knows folders and names only; what is in a package is for the command to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from runtime.commands.surroundings import surroundings
from runtime.errors import PackageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SOURCES = (".toml", ".gguf")


class ModelWord(click.ParamType[str | Path]):
    """A model as a person writes it: a package's folder or name, or what one is built from."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Packages and recipes by name, packages and sources by path; the shell's own completion for anything else."""
        from click.shell_completion import CompletionItem

        del param
        found = [*self._names(surroundings(ctx).home(), incomplete), *self._paths(incomplete)]
        return [CompletionItem(text) for text in found] or [CompletionItem(incomplete, type="file")]

    def _names(self, home: Path, incomplete: str) -> list[str]:
        from runtime.package.home import packages_below

        names = {folder.name for folder in packages_below(home)} | {file.stem for file in home.glob("*.toml")}
        return sorted(name for name in names if name.startswith(incomplete))

    def _paths(self, incomplete: str) -> list[str]:
        from runtime.package.home import is_package

        folder, _, start = incomplete.rpartition("/")
        below = f"{folder}/" if "/" in incomplete else ""
        entries = sorted(Path(below or ".").glob(f"{start}*")) if not set("*?[") & set(start) else []
        return [f"{below}{path.name}" for path in entries if is_package(path) or path.suffix in _SOURCES]


class PackageFolder(ModelWord):
    """A built package, by folder or by name; becomes the folder's path."""

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The package's folder. One line, with the nearest name, when there is none."""
        from runtime.package.home import find_package

        del param
        try:
            return find_package(str(value), surroundings(ctx).home())
        except PackageError as error:
            raise click.ClickException(str(error)) from error


class PackageOrFile(PackageFolder):
    """The same, or a file that lies there."""

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The file's path, else the package's folder."""
        return Path(value) if Path(value).exists() else super().convert(value, param, ctx)


MODEL = PackageFolder()
MODEL_OR_FILE = PackageOrFile()
MODEL_WORD = ModelWord()
