"""Which files of a Hugging Face folder may be opened: plain names, and no links to what lies elsewhere.

A folder may come from a stranger. Whatever is read of it can end up in the package and be served, so a link could give
away any file of this machine. Knows no formats.
"""

from __future__ import annotations

from pathlib import Path

from export.errors import SourceError


def inside(folder: Path, name: str) -> Path:
    """``folder / name`` if that stays in the folder, or in the blobs that a hub cache links to. Raises SourceError."""
    if Path(name).name != name or name in {"", ".", ".."} or "\\" in name or "\0" in name:
        raise SourceError(
            f"{folder.name}: {name!r} is not a plain file name; a checkpoint may not name files elsewhere"
        )
    path = folder / name
    real, home = path.resolve(), folder.resolve()
    if real.parent != home and real.parent != home.parent.parent / "blobs":
        raise SourceError(f"{folder.name}: {name!r} is a link out of the folder; copy the file into it")
    return path


def inside_if_there(folder: Path, name: str) -> Path | None:
    """``inside``, or None where the folder has no such file. Raises SourceError."""
    return inside(folder, name) if (folder / name).is_file() else None
