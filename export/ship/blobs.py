"""Blobs on their way here: a folder with a file for each, which grows and may be cut off at any byte.

A file that has its blob's length and digest is whole; a shorter one is gone on with, any other begins anew. Knows the
files of a package by their digests alone, and where blobs come from by ``Depot``.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import PackageError
from runtime.package.home import is_package
from runtime.package.manifest import read_manifest
from runtime.package.package_file import sha256_of_file
from runtime.unwritten import why_unwritten

from export.errors import TransferError
from export.progress import Advance
from export.ship.artifact import Descriptor
from export.ship.depot import Depot, Interrupted
from export.ship.retrying import Patience

Files = Mapping[str, Descriptor]


class BlobFolder:
    """The folder, made if need be. Whoever uses it holds a lock on it."""

    def __init__(self, folder: Path, depot: Depot, patience: Patience) -> None:
        self._folder, self._depot, self._patience = folder, depot, patience
        folder.mkdir(parents=True, exist_ok=True)
        self._whole: set[str] = set()

    def take_back(self, package: Path, files: Files) -> None:
        """Undo a ``lay_out`` that was cut off, or refused."""
        for name, layer in files.items():
            if (package / name).is_file() and not self._path(layer.digest).exists():
                (package / name).rename(self._path(layer.digest))
        shutil.rmtree(package, ignore_errors=True)

    def keep_only(self, digests: set[str]) -> None:
        """Remove what belongs to another artifact."""
        names = {self._path(digest).name for digest in digests}
        for path in self._folder.iterdir():
            if path.name not in names:
                path.unlink()

    def copy_from(self, packages: Iterable[Path], files: Files) -> int:
        """Take blobs that packages here hold, as their manifests say and their bytes prove; returns their bytes."""
        wanted = {layer.digest: layer.size for layer in files.values() if not self._path(layer.digest).exists()}
        copied = 0
        for package in packages:
            for digest, path in _files_by_digest(package).items():
                size = wanted.get(digest)
                if size is not None and path.is_file() and not path.is_symlink() and path.stat().st_size == size:
                    shutil.copyfile(path, self._path(digest))
                    if self._is_whole(digest, size):
                        copied += wanted.pop(digest)
        return copied

    def missing_bytes(self, files: Files) -> int:
        """Bytes that the disk has yet to take: those that have to come, and a copy for each further file of the same
        bytes, of which a small artifact may name thousands."""
        sizes = {layer.digest: layer.size for layer in files.values()}
        copies = sum(layer.size for layer in files.values()) - sum(sizes.values())
        return copies + sum(max(0, size - self._length(digest)) for digest, size in sizes.items())

    def fetch(self, files: Files, advance: Advance) -> int:
        """Bring every blob that is not whole; returns how many bytes came. Raises TransferError."""
        received, seen = 0, set[str]()
        for layer in files.values():
            if layer.digest not in seen and not self._is_whole(layer.digest, layer.size):
                received += self._fetch(layer.digest, layer.size, advance)
            elif layer.digest not in seen:
                advance(layer.size)
            seen.add(layer.digest)
        return received

    def lay_out(self, package: Path, files: Files) -> None:
        """Give the blobs the names that they have in the package: nothing is left here but ``package``."""
        shutil.rmtree(package, ignore_errors=True)
        placed: dict[str, Path] = {}
        for name, layer in files.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if layer.digest in placed:  # two files of the same bytes
                shutil.copyfile(placed[layer.digest], path)
            else:
                self._path(layer.digest).rename(path)
                placed[layer.digest] = path

    def _path(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _length(self, digest: str) -> int:
        path = self._path(digest)
        return path.stat().st_size if path.is_file() else 0

    def _is_whole(self, digest: str, size: int) -> bool:
        """Whether the file is the blob; a file that cannot become it is removed."""
        if digest in self._whole:
            return True
        path = self._path(digest)
        if not path.is_file() or path.stat().st_size < size:
            return False
        if path.stat().st_size == size and f"sha256:{sha256_of_file(path)}" == digest:
            self._whole.add(digest)
            return True
        path.unlink()
        return False

    def _fetch(self, digest: str, size: int, advance: Advance) -> int:
        advance(self._length(digest))
        received = 0

        def arrived(count: int) -> None:
            nonlocal received
            received += count
            advance(count)

        self._patience.insist(lambda: self._append(digest, size, arrived), lambda: self._length(digest))
        if not self._is_whole(digest, size):
            raise TransferError(f"what came for {digest[:19]} has another digest; it was removed")
        return received

    def _append(self, digest: str, size: int, advance: Advance) -> None:
        """Go on where the file ends, until it is whole or the way breaks."""
        path, start = self._path(digest), self._length(digest)
        with self._depot.read_blob(digest, start) as stream, _growing(path) as file:
            if stream.start not in {0, start}:
                raise Interrupted(f"a blob was asked for from byte {start} and came from byte {stream.start}")
            file.truncate(stream.start)
            reached = stream.start
            for block in stream.blocks:
                reached += len(block)
                if reached > size:
                    raise TransferError(f"{digest[:19]} is longer than the {size} bytes that its artifact says")
                file.append(block)
                advance(len(block))
        if reached < size:
            raise Interrupted(f"only {reached:,} of {size:,} bytes of {digest[:19]} came")


class _Growing:
    """A file that grows. What the disk refuses is a TransferError, never taken for a failure of where a blob is from,
    which would be waited for and tried again."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file

    def truncate(self, size: int) -> None:
        """Go on after ``size`` bytes."""
        with _told_of(self._path):
            self._file.seek(size)
            self._file.truncate()

    def append(self, block: bytes) -> None:
        """Add a block; it has left this process when this returns."""
        with _told_of(self._path):
            self._file.write(block)
            self._file.flush()


@contextmanager
def _growing(path: Path) -> Iterator[_Growing]:
    with _told_of(path):
        file = path.open("r+b" if path.exists() else "wb")
    try:
        yield _Growing(path, file)
    finally:
        with contextlib.suppress(OSError):  # of what was to be appended when the disk was full
            file.close()


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = path.parent
        raise TransferError(
            f"cannot write in {place}: {why_unwritten(error, place)}; what came so far is kept"
        ) from error


def _files_by_digest(package: Path) -> dict[str, Path]:
    """A package's files by their digests, as its manifest says; nothing for a folder that holds none."""
    if not is_package(package):
        return {}
    try:
        manifest = read_manifest(package)
    except PackageError:
        return {}
    return {f"sha256:{info.sha256}": package / name for name, info in manifest.files.items()}
