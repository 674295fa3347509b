"""Plans of a package: is the wanted one there, why not, and building it into place or into another folder.

Plan and sidecar are written beside the package and renamed into it, plan first: a killed build leaves either the old
pair, or a plan that its sidecar disowns, which nobody loads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import PlanError
from runtime.package import dtypes
from runtime.package import plan_sidecar as sidecars
from runtime.package.graph_profiles import slot_rows
from runtime.package.manifest import Package, load_package
from runtime.package.package_file import sha256_of_file
from runtime.package.plan_sidecar import PlanKey, PlanSidecar
from runtime.session.kv_budget import kv_bytes_per_token
from runtime.unwritten import why_unwritten

from export.folder_lock import exclusive
from export.plan.attention import supported_form
from export.plan.builder import build_plan
from export.plan.estimate import check_room, estimate_build
from export.plan.hardware import check_hardware
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings
from export.plan.targets import Target
from export.plan.wanted import wanted_key
from export.provenance.files import add_plan_provenance, has_plan_provenance

_ALIGNMENT = 4096
"""Of the selection head's plan in the file, which is mapped."""

ShowProgress = Callable[[str], AbstractContextManager[OnFraction]]


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A plan in its package. ``reasons`` say why it was built now; empty when it was there already.

    ``slot_bytes`` is the GPU memory of one cache slot.
    """

    path: Path
    sidecar: PlanSidecar
    slot_bytes: int
    reasons: tuple[str, ...]


def ensure_plan(
    root: Path, target: Target, settings: PlanSettings, show: ShowProgress, *, force: bool = False
) -> StoredPlan:
    """The package's plan for ``target``, built if it is missing, altered or not the wanted one. Raises PlanError.

    ``force`` skips the check of memory and disk. The plan's key names the form of attention that was built, which is
    the mask alone where the library takes no lengths.
    """
    package = load_package(root)
    settings = replace(settings, attention=supported_form(target.library, settings.attention))
    key = wanted_key(package, target, settings)
    check_hardware(package.manifest.graphs[sidecars.TRT_GRAPH].precision.values(), target)
    reasons = rebuild_reasons(root, key)
    path = sidecars.plan_path(root, target.name)
    if not reasons:
        sidecar = sidecars.read_sidecar(root, target.name).sidecar
        if not has_plan_provenance(root, package.manifest, sidecar):
            _add_provenance(package, sidecar)
        return StoredPlan(path, sidecar, _slot_bytes(package, sidecar), ())
    if not force:
        check_room(estimate_build(sidecars.graph_bytes(package)), root)
    title = f"Building {target.name} with {target.library.name} {target.library.version}"
    lock = root.parent / f".{root.name}.plan.lock"
    with exclusive(lock, f"building plans for {root.name}", "build in a copy of the package"), show(title) as progress:
        sidecar = _build(package, key, target, settings, progress)
    return StoredPlan(path, sidecar, _slot_bytes(package, sidecar), tuple(reasons))


def _slot_bytes(package: Package, sidecar: PlanSidecar) -> int:
    itemsize = dtypes.BY_NAME[package.manifest.graphs[sidecars.TRT_GRAPH].kv_dtype].itemsize
    return sidecar.capacity * kv_bytes_per_token(package.manifest.shape, itemsize)


def rebuild_reasons(root: Path, key: PlanKey) -> list[str]:
    """Why the package's plan for the key's target must be built: empty when it is there and the wanted one."""
    try:
        plan = sidecars.read_sidecar(root, key.target)
        sidecars.check_plan_bytes(plan)
    except PlanError as error:
        return [str(error).split(";")[0]]
    return sidecars.key_differences(plan.sidecar.key, key)


def _build(
    package: Package, key: PlanKey, target: Target, settings: PlanSettings, on_fraction: OnFraction
) -> PlanSidecar:
    root = package.root
    temporary = root.parent / f".{root.name}.{target.name}.plan.partial"
    path = sidecars.plan_path(root, target.name)
    sidecar = write_plan(package, key, target, settings, on_fraction, path=path, temporary=temporary)
    _add_provenance(package, sidecar)
    return sidecar


def _add_provenance(package: Package, sidecar: PlanSidecar) -> None:
    try:
        add_plan_provenance(package.root, package.manifest, sidecar)
    except OSError as error:
        raise PlanError(f"cannot write beside the plan: {why_unwritten(error, package.root)}") from error


def write_plan(
    package: Package,
    key: PlanKey,
    target: Target,
    settings: PlanSettings,
    on_fraction: OnFraction,
    *,
    path: Path,
    temporary: Path,
) -> PlanSidecar:
    """Build the package's plan of ``key`` as ``path``, its sidecar beside it, each by way of ``temporary``.

    Neither looks for an older plan nor locks. Raises PlanError.
    """
    graph = package.manifest.graphs[sidecars.TRT_GRAPH]
    head = None if package.manifest.selection is None else package.path(package.manifest.selection.path)
    capacity = slot_rows(key.max_model_len)
    built = build_plan(package.path(graph.path), capacity, target, settings, on_fraction, head=head)
    try:
        with temporary.open("wb") as file:
            file.write(built.data)
            if built.selection:
                file.write(bytes(-len(built.data) % _ALIGNMENT))
                file.write(built.selection)
            file.flush()
            os.fsync(file.fileno())
        sidecar = PlanSidecar(
            schema_version=sidecars.SCHEMA_VERSION,
            key=key,
            precision=graph.precision,
            capacity=built.facts.cache_shape[1],
            plan_bytes=temporary.stat().st_size,
            decoder_bytes=len(built.data),
            selection_bytes=len(built.selection),
            scratch_bytes=built.scratch_bytes,
            plan_sha256=sha256_of_file(temporary),
            driver=target.driver,
            build_seconds=built.build_seconds,
            peak_memory_bytes=built.peak_memory_bytes,
            created_unix=int(time.time()),
        )
        temporary.replace(path)
        sidecars.write_sidecar(temporary, sidecar)
        temporary.replace(sidecars.sidecar_path(path))
    except OSError as error:
        raise PlanError(f"cannot write {path.name}: {why_unwritten(error, path)}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return sidecars.sealed(sidecar)
