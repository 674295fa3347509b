"""A folder or an object store as a place where artifacts lie: an OCI image layout, written and read by ``fsspec``.

    oci-layout, index.json (tags), blobs/sha256/HEX (manifests and files)

A blob is written under its digest once, whatever packages hold it. Tags are entries of ``index.json``, which whoever
pushes writes anew: of two who push tags to one store at the same moment, the later one wins.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from runtime.install import install_line
from runtime.package.limits import decode_document
from runtime.unwritten import why_unwritten

from export.errors import TransferError
from export.ship.artifact import ARTIFACT_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Descriptor
from export.ship.depot import BLOCK_BYTES, BlobStream, Interrupted
from export.ship.reference import Reference

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REF_NAME = "org.opencontainers.image.ref.name"
_LOCAL = "file"
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What a folder refuses will be refused again a second later."""
_MAX_INDEX_BYTES = 16 * 2**20  # some 60,000 tags


class _Entry(Descriptor, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    artifact_type: str = ""


class _Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = msgspec.field(default=2, name="schemaVersion")
    media_type: str = _INDEX_TYPE
    manifests: tuple[_Entry, ...] = ()


class Store:
    """The layout at a URL such as ``file:///srv/models`` or ``s3://bucket/models``."""

    def __init__(self, reference: Reference) -> None:
        from fsspec.core import url_to_fs

        self._url = reference.place
        self._is_local = reference.scheme == _LOCAL
        try:
            # Listings are not kept: a blob that another machine has put there must be seen.
            options = {} if self._is_local else {"use_listings_cache": False}
            self._fs, root = url_to_fs(self._url, **options)
        except ImportError as error:
            line = install_line("store", "powertrain[store]")
            raise TransferError(f"{reference.scheme}:// needs a library that is not installed: {line}") from error
        except (ValueError, OSError) as error:
            raise TransferError(f"{self._url} is no store: {error}") from error
        self._root = root.rstrip("/")

    def read_manifest(self, wanted: str) -> bytes:
        """See ``Depot``."""
        digest = wanted if wanted.startswith("sha256:") else self._digest_of(wanted)
        with self._failing(f"{self._url} has no manifest {digest[:19]}"):
            return self._read(self._blob(digest), MAX_MANIFEST_BYTES, "a manifest")

    @contextmanager
    def read_blob(self, digest: str, start: int) -> Iterator[BlobStream]:
        """See ``Depot``."""
        with self._failing(f"{self._url} has no blob {digest[:19]}"), self._fs.open(self._blob(digest), "rb") as file:
            file.seek(start)
            yield BlobStream(start, iter(lambda: file.read(BLOCK_BYTES), b""))

    def has_blob(self, digest: str, size: int) -> bool:
        """See ``Depot``."""
        with self._failing(""):
            try:
                return bool(self._fs.size(self._blob(digest)) == size)
            except FileNotFoundError:
                return False

    def write_blob(self, digest: str, size: int, blocks: Callable[[], Iterator[bytes]]) -> None:
        """See ``Depot``."""
        del size
        self._write(self._blob(digest), blocks())

    def write_manifest(self, data: bytes, digest: str, tag: str | None) -> None:
        """See ``Depot``."""
        self._write(self._blob(digest), iter([data]))
        kept = tuple(
            entry for entry in self._index().manifests
            if entry.annotations.get(_REF_NAME) != tag and (entry.digest != digest or _REF_NAME in entry.annotations)
        )  # fmt: skip
        entry = _Entry(
            media_type=MANIFEST_TYPE,
            digest=digest,
            size=len(data),
            artifact_type=ARTIFACT_TYPE,
            annotations={} if tag is None else {_REF_NAME: tag},
        )
        index = msgspec.json.encode(_Index(manifests=(*kept, entry)))
        if len(index) > _MAX_INDEX_BYTES:
            raise TransferError(
                f"{self._url} has no place for another tag: its index.json would be larger than {_MAX_INDEX_BYTES} "
                "bytes; remove tags from it, or push to another store"
            )
        self._write(f"{self._root}/oci-layout", iter([_LAYOUT]))
        self._write(f"{self._root}/index.json", iter([index]))

    def _index(self) -> _Index:
        with self._failing(""):
            try:
                data = self._read(f"{self._root}/index.json", _MAX_INDEX_BYTES, "index.json")
            except FileNotFoundError:
                return _Index()
        try:
            return decode_document(data, _Index)
        except ValueError as error:
            raise TransferError(f"{self._url}: index.json is not readable ({error})") from error

    def _read(self, path: str, most: int, what: str) -> bytes:
        """A file's bytes, of which no more than ``most`` are taken, whatever size the store says that it has."""
        with self._fs.open(path, "rb") as file:
            data = bytes(file.read(most + 1))
        if len(data) > most:
            raise TransferError(f"{self._url}: {what} is larger than {most} bytes")
        return data

    def _digest_of(self, tag: str) -> str:
        entries = {entry.annotations.get(_REF_NAME): entry.digest for entry in self._index().manifests}
        if tag not in entries:
            known = ", ".join(sorted(name for name in entries if name)) or "none"
            raise TransferError(f"{self._url} has no tag {tag!r}; its tags: {known[:500]}")
        return entries[tag]

    def _blob(self, digest: str) -> str:
        return f"{self._root}/blobs/sha256/{digest.removeprefix('sha256:')}"

    def _write(self, path: str, blocks: Iterator[bytes]) -> None:
        """A file, whole or not at all: object stores do that by themselves, in a folder it is renamed into place."""
        goal = f"{path}.{os.getpid()}.partial" if self._is_local else path
        with self._failing(""):
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                with self._fs.open(goal, "wb") as file:
                    for block in blocks:
                        file.write(block)
                if goal != path:
                    self._fs.mv(goal, path)
            except BaseException:
                if goal != path:
                    Path(goal).unlink(missing_ok=True)
                raise

    @contextmanager
    def _failing(self, missing: str) -> Iterator[None]:
        """What a store raises, as what ``Depot`` says."""
        try:
            yield
        except FileNotFoundError as error:
            raise TransferError(missing or f"{self._url} is not there") from error
        except PermissionError as error:
            raise TransferError(f"{self._url} does not let us in; {_ask_for(self._url)}") from error
        except _failures() as error:
            if self._is_local and isinstance(error, OSError) and error.errno in _LASTING:
                raise TransferError(f"{self._url}: {why_unwritten(error, Path(self._root))}") from error
            raise Interrupted(f"{self._url} failed ({str(error)[:200]})") from error


def _ask_for(url: str) -> str:
    return "the store's own tools keep the login" if not url.startswith("file:") else "check who may write there"


def _failures() -> tuple[type[Exception], ...]:
    """OSError, and what S3's library raises beside it where it is installed."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return (OSError,)
    return (OSError, BotoCoreError, ClientError)
