"""Which folder a conversion goes to: a new one, or an empty one, whole or not at all. Knows the forms by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.package.manifest import Package

from export.errors import ExportError
from export.interop.genai import write_genai_folder
from export.interop.triton import write_triton_repository
from export.package.workspace import workspace

_WRITERS: dict[str, Callable[[Package, Path], None]] = {
    "genai": write_genai_folder,
    "triton": write_triton_repository,
}


def convert(source: Package, form: str, root: Path) -> None:
    """Write ``source`` in ``form`` to ``root``. Raises ExportError; whatever stood at ``root`` before then stands."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ExportError(f"{root} is there already; choose another folder with -o, or empty it")
    with workspace(root) as partial:
        _WRITERS[form](source, partial)
        partial.rename(root)
