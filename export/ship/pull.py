"""An artifact elsewhere ─▶ a package on this machine, which appears whole and verified or not at all.

What comes lies in a folder ``.NAME.pull`` beside the package's, a file per blob, and stays there when a pull is cut
off: the next one goes on where it ended. Files that another package here has are copied from it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import PackageError
from runtime.package.home import is_package, packages_below
from runtime.package.manifest import Package, load_package
from runtime.unwritten import size_text, why_unwritten

from export.errors import TransferError
from export.folder_lock import exclusive
from export.package.replace import put_in_place
from export.progress import Reporter
from export.ship.artifact import Artifact, artifact_of, digest_of, read_artifact
from export.ship.blobs import BlobFolder
from export.ship.depot import Depot
from export.ship.reference import Reference
from export.ship.retrying import Patience

_SHORT_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Pulled:
    """The package's folder, where it is from, and whether it was there; bytes that came, and those that were here."""

    root: Path
    pinned: Reference
    was_there: bool
    received_bytes: int = 0
    known_bytes: int = 0


def folder_for(reference: Reference, digest: str, home: Path) -> Path:
    """Where an artifact belongs in the folder of packages: by its name and the beginning of its digest."""
    return home / f"{reference.short_name}-{digest.removeprefix('sha256:')[:_SHORT_DIGEST]}"


def already_pulled(root: Path, digest: str) -> bool:
    """Whether the package in a folder is the artifact of that digest, by what its files say; bytes are not read."""
    if not is_package(root):
        return False
    try:
        return artifact_of(load_package(root, verify_digests=False)).digest == digest
    except (PackageError, OSError):
        return False


def find_pulled(reference: Reference, home: Path) -> Path | None:
    """The folder of an artifact that is named by its digest and was pulled before; no place is asked."""
    if reference.digest is None:
        return None
    root = folder_for(reference, reference.digest, home)
    return root if already_pulled(root, reference.digest) else None


def pull_package(
    reference: Reference,
    depot: Depot,
    home: Path,
    reporter: Reporter,
    *,
    root: Path | None = None,
    patience: Patience | None = None,
) -> Pulled:
    """Pull into ``root``, or else into a folder of ``home`` of the artifact's own, unless it is there.

    Raises TransferError for a place that fails, ExportError where another pull is at it, PackageError for an artifact
    that is no whole package. What stood at ``root`` then still stands.
    """
    patience = patience or Patience()
    wanted = reference.digest or reference.tag or ""
    data = patience.insist(lambda: depot.read_manifest(wanted))
    if reference.digest is not None and digest_of(data) != reference.digest:
        raise TransferError(f"{reference.place} gave a manifest with the digest {digest_of(data)} for {reference}")
    artifact = read_artifact(data)
    pinned = reference.pinned(artifact.digest)
    root = root or folder_for(reference, artifact.digest, home)
    if already_pulled(root, artifact.digest):
        return Pulled(root, pinned, was_there=True)
    with exclusive(root.parent / f".{root.name}.pull.lock", f"pulling {root.name}"):
        return _pull(artifact, pinned, root=root, home=home, depot=depot, reporter=reporter, patience=patience)


def _pull(
    artifact: Artifact,
    pinned: Reference,
    *,
    root: Path,
    home: Path,
    depot: Depot,
    reporter: Reporter,
    patience: Patience,
) -> Pulled:
    work = root.parent / f".{root.name}.pull"
    folder = work / "package"
    try:
        blobs = BlobFolder(work, depot, patience)
        blobs.take_back(folder, artifact.files)
        blobs.keep_only({layer.digest for layer in artifact.files.values()})
        known = blobs.copy_from([root, *(path for path in packages_below(home) if path != root)], artifact.files)
        missing = blobs.missing_bytes(artifact.files)
        _check_space(root.parent, missing)
        with reporter.stage(f"Pulling {root.name}", artifact.size, in_bytes=True) as advance:
            received = blobs.fetch(artifact.files, advance)
        blobs.lay_out(folder, artifact.files)
        _check_whole(folder, artifact)
        put_in_place(folder, root, keep_plans=False)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise TransferError(f"cannot write {root}: {why_unwritten(error, root)}") from error
    finally:
        with contextlib.suppress(OSError):  # nothing came, so there is nothing to go on with
            work.rmdir()
    return Pulled(root, pinned, was_there=False, received_bytes=received, known_bytes=known)


def _check_whole(folder: Path, artifact: Artifact) -> Package:
    """Raise PackageError or TransferError unless the folder is a package, to the last byte, and the artifact's."""
    try:
        package = load_package(folder)
        if artifact_of(package).files.keys() != artifact.files.keys():
            raise TransferError("the artifact holds files that are no part of a package")
    except PackageError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise PackageError(f"what was pulled is no whole package: {error}") from error
    except TransferError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(folder)
    return package


def _sync(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_space(folder: Path, wanted: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise TransferError(
            f"{size_text(wanted)} are needed in {folder} and {size_text(free)} are free; "
            "free some space or choose another folder"
        )
