"""What pushing and pulling ask of a place where artifacts lie, be it a registry or a store. Values and words only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class BlobStream:
    """Bytes of a blob from ``start`` on, which is 0 where the place cannot begin elsewhere."""

    start: int
    blocks: Iterator[bytes]


class Interrupted(Exception):
    """The place, or the way to it, failed in a manner that may be gone at the next try; ``str`` says how."""


class Depot(Protocol):
    """Where artifacts lie. Whatever fails for good raises TransferError, the rest Interrupted."""

    def read_manifest(self, wanted: str) -> bytes:
        """The bytes of a manifest by its tag or digest, however the place vouches for them."""
        ...

    def read_blob(self, digest: str, start: int) -> AbstractContextManager[BlobStream]:
        """A blob's bytes from ``start`` on, or from 0."""
        ...

    def has_blob(self, digest: str, size: int) -> bool:
        """Whether the blob is there already."""
        ...

    def write_blob(self, digest: str, size: int, blocks: Callable[[], Iterator[bytes]]) -> None:
        """Put a blob there; ``blocks`` begins anew at each call. It appears whole or not at all."""
        ...

    def write_manifest(self, data: bytes, digest: str, tag: str | None) -> None:
        """Put a manifest there, last of all, under its digest and a tag if one is given."""
        ...


def blocks_of(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes; ``advance`` is told how many go."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
            advance(len(block))
