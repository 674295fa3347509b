"""A package of the cache, with names, as the folder that is served; and its plans. Is it there already?

Packages hold no links, so files are copied, and read once more on the way: what was altered in the cache is noticed
there, goes away and reaches nobody. Where only names changed, the manifest alone is written anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from runtime.errors import PackageError, PlanError
from runtime.package import plan_sidecar as sidecars
from runtime.package.manifest import PROVENANCE_FILES, Manifest, load_package, read_manifest, write_manifest
from runtime.unwritten import why_unwritten

from export.errors import CacheError, ExportError
from export.folder_lock import exclusive, exclusive_folder
from export.package.replace import put_in_place
from export.pipeline.cache import Cache, Stored
from export.pipeline.tasks import Names, PlaceTask
from export.progress import Advance, Reporter

_BLOCK_BYTES = 2**20


def named(manifest: Manifest, names: Names) -> Manifest:
    """The manifest of a package in the cache as it is in its place."""
    return msgspec.structs.replace(
        manifest,
        name=names.name,
        served_names=names.served_names,
        source=msgspec.structs.replace(
            manifest.source,
            name=names.source_name,
            license=names.license,
            revision=names.source_revision or manifest.source.revision,
        ),
        recipe_digest=names.recipe_digest,
    )


def missing_parts(root: Path, package: Stored, plans: Mapping[str, Stored], names: Names) -> list[str]:
    """What of a package in ``root`` is not as it should be, by sizes and digests as recorded; no file is read."""
    try:
        found = load_package(root, verify_digests=False).manifest
    except PackageError:
        return ["the package"]
    wanted = named(read_manifest(package.folder), names)
    if not _has_files_of(found, wanted):
        return ["the package's files"]
    return [
        *(["the manifest"] if found != _renamed(found, wanted) else []),
        *(t for t, plan in plans.items() if not _has_plan(root, t, plan)),
    ]


def place_package(task: PlaceTask, cache: Cache, reporter: Reporter) -> None:
    """Make ``task.root`` the package with its plans, in one step for the package and one for each plan."""
    from export.provenance.files import add_plan_provenance  # and what writes XML, which looking need not import

    root = Path(task.root)
    with contextlib.ExitStack() as held:
        for key in (task.package_key, *task.plan_keys.values()):
            held.enter_context(cache.reading(key))
        package = required(cache, task.package_key)
        plans = {target: required(cache, key) for target, key in task.plan_keys.items()}
        missing = missing_parts(root, package, plans, task.names)
        if not missing:
            return
        try:
            if missing[0].startswith("the package"):
                _copy_package(root, package, task.names, cache, reporter)
            elif missing[0] == "the manifest":
                wanted = named(read_manifest(package.folder), task.names)
                write_manifest(root, _renamed(read_manifest(root), wanted))
            lock = root.parent / f".{root.name}.plan.lock"
            with exclusive(lock, f"building plans for {root.name}", wait=True):
                for target, plan in plans.items():
                    if not _has_plan(root, target, plan):
                        _copy_plan(root, target, plan, cache)
                        sidecar = sidecars.read_sidecar(root, target).sidecar
                        add_plan_provenance(root, read_manifest(root), sidecar)
        except OSError as error:
            raise ExportError(f"cannot write {root}: {why_unwritten(error, root)}") from error


def _has_files_of(found: Manifest, wanted: Manifest) -> bool:
    """Whether a package has the wanted files, also those that say where it comes from, which follow from the rest."""
    if found.source != wanted.source or not found.files.keys() >= PROVENANCE_FILES:
        return False
    bare = [{name: info for name, info in one.files.items() if name not in PROVENANCE_FILES} for one in (found, wanted)]
    return bare[0] == bare[1]


def _renamed(found: Manifest, wanted: Manifest) -> Manifest:
    """The wanted manifest over the files that are there: no name that a person chose is in one of them."""
    return msgspec.structs.replace(wanted, files=found.files)


def required(cache: Cache, key: str) -> Stored:
    """The entry of a step that went before. Raises CacheError if it was removed since."""
    stored = cache.find(key)
    if stored is None:
        raise CacheError("what an earlier step made is gone from the cache, or damaged; run the build again")
    return stored


def _copy_package(root: Path, package: Stored, names: Names, cache: Cache, reporter: Reporter) -> None:
    # Another build that puts the same there is waited for, as at every step; then there may be nothing to do.
    folder = root.parent / f".{root.name}.partial"
    with exclusive_folder(folder, f"building {root.name}", "choose another output in the file", wait=True) as partial:
        if not missing_parts(root, package, {}, names):
            return
        _fill(partial, package, names, cache, reporter)
        put_in_place(partial, root)


def _fill(partial: Path, package: Stored, names: Names, cache: Cache, reporter: Reporter) -> None:
    """Make the empty folder the package with its names."""
    from export.provenance.files import add_provenance

    manifest = read_manifest(package.folder)
    size = sum(info.size for info in manifest.files.values())
    with reporter.stage(f"Putting {names.name} in place", size, in_bytes=True) as advance:
        for name in manifest.files.keys() - PROVENANCE_FILES:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(package, cache, name, partial / name, advance)
        write_manifest(partial, add_provenance(partial, named(manifest, names)))


def _copy_plan(root: Path, target: str, plan: Stored, cache: Cache) -> None:
    """Plan first, then its sidecar, which disowns any other plan."""
    path = sidecars.plan_path(root, target)
    temporary = root.parent / f".{root.name}.{target}.plan.partial"
    for name, goal in ((f"{target}.plan", path), (f"{target}.plan.json", sidecars.sidecar_path(path))):
        _copy(plan, cache, name, temporary, lambda _count: None)
        temporary.replace(goal)


def copy_with_plan(package: Stored, plan: Stored, target: str, folder: Path) -> None:
    """Make ``folder`` the package of the cache, as it is there, with a plan. Raises ExportError; loading compares."""
    path = sidecars.plan_path(folder, target)
    try:
        shutil.copytree(package.folder, folder)
        for name, goal in ((f"{target}.plan", path), (f"{target}.plan.json", sidecars.sidecar_path(path))):
            shutil.copyfile(plan.folder / name, goal)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {why_unwritten(error, folder)}") from error


def _copy(stored: Stored, cache: Cache, name: str, goal: Path, advance: Advance) -> None:
    """Copy a file of the cache. Raises CacheError, and has the entry forgotten, if its bytes are not those of then."""
    source, sha256 = stored.folder / name, stored.entry.files[name].sha256
    digest = hashlib.sha256()
    with goal.open("wb") as file:
        for block in _blocks(source):
            digest.update(block)
            file.write(block)
            advance(len(block))
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != sha256:
        goal.unlink()
        cache.forget(stored.entry.key)
        raise CacheError(
            f"{source.name} of {stored.entry.label} was altered in the cache and is forgotten there; build again"
        )


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block


def _has_plan(root: Path, target: str, plan: Stored) -> bool:
    """Whether ``root`` has exactly this plan, judged by its sidecar and its size."""
    try:
        found = sidecars.read_sidecar(root, target)
        wanted = sidecars.sidecar_path(plan.folder / f"{target}.plan").read_bytes()
    except (PlanError, OSError):
        return False
    is_same = sidecars.sidecar_path(found.path).read_bytes() == wanted
    texts = (sidecars.STATEMENT_SUFFIX, sidecars.BOM_SUFFIX)
    has_provenance = all(found.path.with_name(f"{target}{suffix}").is_file() for suffix in texts)
    return is_same and has_provenance and found.path.stat().st_size == found.sidecar.plan_bytes
