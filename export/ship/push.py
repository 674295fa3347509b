"""A package on this machine ─▶ an artifact elsewhere; what the place has already is not sent again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.package.manifest import Package

from export.errors import TransferError
from export.progress import Advance, Reporter
from export.ship.artifact import EMPTY, artifact_of, digest_of
from export.ship.depot import Depot, blocks_of
from export.ship.reference import Reference
from export.ship.retrying import Patience


@dataclass(frozen=True, slots=True)
class Pushed:
    """Where a package lies now, by digest; bytes that were sent, and those that were there."""

    pinned: Reference
    sent_bytes: int
    known_bytes: int


def push_package(
    package: Package, reference: Reference, depot: Depot, reporter: Reporter, patience: Patience | None = None
) -> Pushed:
    """Push a verified package: its files, then the manifest that names them, so that nobody sees half of it.

    Raises TransferError.
    """
    patience = patience or Patience()
    artifact = artifact_of(package)
    if reference.digest not in {None, artifact.digest}:
        raise TransferError(f"the package has the digest {artifact.digest}, not {reference.digest}; push it to a tag")
    files = {layer.digest: (package.root / name, layer.size) for name, layer in artifact.files.items()}
    total = sum(size for _, size in files.values())
    with reporter.stage(f"Pushing {package.manifest.name}", total, in_bytes=True) as advance:
        sent = sum(_push_file(depot, patience, advance, digest, file) for digest, file in files.items())
    if not patience.insist(lambda: depot.has_blob(digest_of(EMPTY), len(EMPTY))):
        patience.insist(lambda: depot.write_blob(digest_of(EMPTY), len(EMPTY), lambda: iter([EMPTY])))
    patience.insist(lambda: depot.write_manifest(artifact.data, artifact.digest, reference.tag))
    return Pushed(reference.pinned(artifact.digest), sent, total - sent)


def _push_file(depot: Depot, patience: Patience, advance: Advance, digest: str, file: tuple[Path, int]) -> int:
    """Bytes sent: all of the ``file`` (path, size), or none if the place has it."""
    path, size = file
    if patience.insist(lambda: depot.has_blob(digest, size)):
        advance(size)
        return 0
    shown = 0

    def show(count: int) -> None:  # a blob that is sent again is shown once
        nonlocal shown
        reached = min(size, shown + count)
        advance(reached - shown)
        shown = reached

    patience.insist(lambda: depot.write_blob(digest, size, lambda: blocks_of(path, show)))
    return size
