"""One file of a package on disk: where it may lie, its size and digest, and whether it still is what was hashed.

Knows no manifest's schema. A file is opened by whoever needs it, often a library that takes a path alone. So what was
hashed leaves a ``FileSeal``, and who opened the file afterwards asks whether the seal still holds.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from runtime.errors import PackageError
from runtime.package.limits import Sha256, Size

_MAX_COMPONENT_BYTES = 255
"""What Linux's filesystems take as one name."""
_HASH_BLOCK_BYTES = 2**20


class FileInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size in bytes and lowercase sha256 of one file of the package."""

    size: Size
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class FileSeal:
    """A file's state as ``stat`` tells it. Whoever writes to it, or puts another in its place, changes ``changed_ns``,
    which the kernel alone sets. Inode numbers are left out: filesystems over a network hand out new ones.
    """

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileSeal:
        """The seal of a file in that state."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def sha256_of_file(path: Path) -> str:
    """Lowercase hex sha256 of a file, read in blocks."""
    return hashed(path)[0]


def hashed(path: Path) -> tuple[str, FileSeal]:
    """Lowercase hex sha256 of a file, and the seal of what was read. Raises OSError.

    A file that is written to meanwhile has another state afterwards, so its seal does not hold.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        seal = FileSeal.of(os.fstat(file.fileno()))
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest(), seal


def holds(path: Path, seal: FileSeal) -> bool:
    """Whether the file at ``path`` is in the state of ``seal``."""
    try:
        return FileSeal.of(path.stat()) == seal
    except OSError:
        return False


def read_at_most(path: Path, max_bytes: int) -> bytes | None:
    """A file's bytes; None for more than ``max_bytes``, however large it says it is. Raises OSError."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    return None if len(data) > max_bytes else data


def file_info(path: Path) -> FileInfo:
    """Size and digest of a file as the manifest records them."""
    return FileInfo(size=path.stat().st_size, sha256=sha256_of_file(path))


def file_info_of(data: bytes) -> FileInfo:
    """The same of bytes that will be a file."""
    return FileInfo(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def stays_inside(name: str) -> bool:
    """Whether a relative path as a manifest writes it leads to a place below the folder that it counts from."""
    pure = PurePosixPath(name)
    is_plain = name.isprintable() and "\\" not in name and str(pure) == name
    fits = all(len(part.encode()) <= _MAX_COMPONENT_BYTES for part in pure.parts)
    return is_plain and fits and not pure.is_absolute() and ".." not in pure.parts


def check_file(root: Path, name: str, info: FileInfo, *, verify_digest: bool) -> FileSeal:
    """The seal of a package's file that is as ``info`` says. Raises PackageError naming the first difference: a path
    that leaves ``root``, a link, another size or, if it is to be verified, another digest."""
    if not stays_inside(name):
        raise PackageError(f"{root.name}: the manifest names {name!r}, which does not stay inside the package")
    path = root
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise PackageError(f"{root.name}: {name!r} goes through a link; packages hold plain files only")
    if not path.is_file():
        raise PackageError(f"{root.name}: {name!r} is missing; rebuild the package with 'powertrain export'")
    status = path.stat()
    if status.st_nlink > 1:
        raise PackageError(f"{root.name}: {name!r} is hard-linked elsewhere; packages hold plain files only")
    if status.st_size != info.size:
        raise PackageError(
            f"{root.name}: {name!r} has {status.st_size} bytes, the manifest says {info.size}; rebuild it"
        )
    if not verify_digest:
        return FileSeal.of(status)
    digest, seal = hashed(path)
    if digest != info.sha256:
        raise PackageError(
            f"{root.name}: {name!r} has sha256 {digest}, the manifest says {info.sha256}; rebuild the package"
        )
    return seal
