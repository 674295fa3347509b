"""The store of steps' results, by key: shared on disk between pipelines, safe under concurrent builders and kills.

``steps/KEY/`` is a whole entry: ``entry.json`` and the files it names below ``files/``. An entry is made in
``partial/KEY`` under the key's lock and renamed into place, and never changed afterwards. Whoever reads one holds its
lock beside other readers, so that nobody removes it meanwhile. Knows no step.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from runtime.package.package_file import FileInfo, file_info

from export.errors import CacheError, ExportError
from export.folder_lock import exclusive, shared

ENTRY_FILE = "entry.json"
_SCHEMA_VERSION = 1
_ENTRY_MAX_BYTES = 2**22
_WAY_OUT = "choose another folder with --cache"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One step's result. ``inputs`` are what its key is the digest of, ``facts`` what it found besides files.

    ``seconds`` and ``peak_memory_bytes`` are what its process took.
    """

    schema_version: int = _SCHEMA_VERSION
    kind: str
    key: str
    label: str
    inputs: dict[str, str]
    facts: dict[str, str]
    files: dict[str, FileInfo]
    seconds: float
    peak_memory_bytes: int
    created_unix: int

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return sum(info.size for info in self.files.values())


@dataclass(frozen=True, slots=True)
class Stored:
    """An entry and the folder with its files."""

    entry: Entry
    folder: Path

    @property
    def last_used_unix(self) -> float:
        """When the entry was made or last taken by a build."""
        return (self.folder.parent / ENTRY_FILE).stat().st_mtime


class Cache:
    """The store in ``root``, which is made when something is put there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> Stored | None:
        """The whole entry of a key, judged by sizes; None if it is missing or not whole."""
        folder = self._steps / key
        entry = _read_entry(folder / ENTRY_FILE)
        if entry is None or entry.key != key:
            return None
        return Stored(entry, folder / "files") if not wrong_sizes(folder / "files", entry) else None

    def touch(self, key: str) -> None:
        """Note that a build took the entry: prune removes first what was not taken for long."""
        try:
            os.utime(self._steps / key / ENTRY_FILE)
        except OSError:
            return  # a store that others own, read only, is used all the same

    def entries(self) -> Iterator[Stored]:
        """Every readable entry, whole or not, the one longest unused first."""
        folders = [path for path in self._steps.glob("*") if not path.name.startswith(".")]
        found = [Stored(entry, path / "files") for path in folders if (entry := _read_entry(path / ENTRY_FILE))]
        yield from sorted(found, key=lambda one: (one.last_used_unix, one.entry.key))

    def reading(self, key: str) -> AbstractContextManager[None]:
        """For this block the entry stays as it is."""
        return shared(self._lock(key), _WAY_OUT)

    @contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """An empty folder for the files of a key's new entry, this process's alone; ``publish`` before leaving.

        Waits for another process that makes the same; look for the entry then, it may be there. Raises
        ExportError if the folder cannot be made.
        """
        partial = self.root / "partial" / key
        with exclusive(self._lock(key), "using this entry of the cache", _WAY_OUT, wait=True):
            try:
                shutil.rmtree(partial, ignore_errors=True)
                (partial / "files").mkdir(parents=True)
                yield partial / "files"
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def publish(self, entry: Entry, files: Path) -> Stored:
        """Make what lies in ``files`` (of ``making``) the entry of its key, in one step. Raises CacheError."""
        partial, target = files.parent, self._steps / entry.key
        try:
            _write(partial / ENTRY_FILE, msgspec.json.format(msgspec.json.encode(entry), indent=2) + b"\n")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        except OSError as error:
            raise CacheError(
                f"cannot write to {self.root}: {error.strerror}; free some space, or {_WAY_OUT}"
            ) from error
        return Stored(entry, target / "files")

    def forget(self, key: str) -> None:
        """Make an entry that others may be reading none: its files stay until its key is made anew, or pruned."""
        (self._steps / key / ENTRY_FILE).unlink(missing_ok=True)

    def remove(self, key: str) -> bool:
        """Remove an entry unless a process uses it; says whether it is gone."""
        return self._remove(key, self._steps / key, self.root / "partial" / key)

    def unfinished_keys(self) -> list[str]:
        """Keys of entries that are being made or whose makers were killed, and of those that were forgotten."""
        forgotten = [path.name for path in self._steps.glob("*") if not (path / ENTRY_FILE).is_file()]
        return sorted({*forgotten, *(path.name for path in (self.root / "partial").glob("*"))})

    def remove_unfinished(self, key: str) -> bool:
        """Remove what is left of an entry that nobody is making; a whole entry of the same key stays."""
        folders = [self.root / "partial" / key]
        if not (self._steps / key / ENTRY_FILE).is_file():
            folders.append(self._steps / key)
        return self._remove(key, *folders)

    def _remove(self, key: str, *folders: Path) -> bool:
        try:
            with exclusive(self._lock(key), "using this entry of the cache", _WAY_OUT):
                for folder in folders:
                    (folder / ENTRY_FILE).unlink(missing_ok=True)  # first, so that a killed prune leaves no half entry
                    shutil.rmtree(folder, ignore_errors=True)
        except ExportError:
            return False
        return not any(folder.exists() for folder in folders)

    @property
    def _steps(self) -> Path:
        return self.root / "steps"

    def _lock(self, key: str) -> Path:
        return self.root / "locks" / key


def new_entry(files: Path, *, kind: str, label: str, key: str, inputs: dict[str, str], facts: dict[str, str]) -> Entry:
    """The entry for what lies in ``files``, digests computed; what it took is filled in when that is known."""
    paths = sorted(path for path in files.rglob("*") if path.is_file())
    return Entry(
        kind=kind,
        key=key,
        label=label,
        inputs=inputs,
        facts=facts,
        files={path.relative_to(files).as_posix(): file_info(path) for path in paths},
        seconds=0.0,
        peak_memory_bytes=0,
        created_unix=int(time.time()),
    )


def wrong_sizes(files: Path, entry: Entry) -> list[str]:
    """Names of an entry's files that are missing or have another size."""
    return [name for name, info in entry.files.items() if _size(files / name) != info.size]


def altered_files(files: Path, entry: Entry) -> list[str]:
    """Names of an entry's files that are missing or have other bytes; reads them all."""
    short = set(wrong_sizes(files, entry))
    return [name for name, info in entry.files.items() if name in short or file_info(files / name) != info]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read_entry(path: Path) -> Entry | None:
    try:
        if path.stat().st_size > _ENTRY_MAX_BYTES:
            return None
        entry = msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, msgspec.MsgspecError):
        return None
    return entry if entry.schema_version == _SCHEMA_VERSION else None


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
