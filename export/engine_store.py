"""Engines of a package: is the wanted one there, why not, and building it into place.

Plan and sidecar are written beside the package and renamed into it, plan first: a killed build leaves either the old
pair, or a plan that its sidecar disowns, which nobody loads.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime import engine_sidecar as sidecars
from runtime.engine_sidecar import EngineError, EngineKey, EngineSidecar
from runtime.graph_profiles import max_prefill_logits
from runtime.manifest import Package, load_package, sha256_of_file

from export.engine_builder import build_engine
from export.engine_estimate import check_room, estimate_build
from export.engine_progress import OnFraction
from export.engine_settings import EngineSettings
from export.engine_targets import Target

ShowProgress = Callable[[str], AbstractContextManager[OnFraction]]


@dataclass(frozen=True, slots=True)
class StoredEngine:
    """An engine in its package. ``reasons`` say why it was built now; empty when it was there already."""

    path: Path
    sidecar: EngineSidecar
    reasons: tuple[str, ...]


def ensure_engine(
    root: Path, target: Target, settings: EngineSettings, show: ShowProgress, *, force: bool = False
) -> StoredEngine:
    """The package's engine for ``target``, built if it is missing, altered or not the wanted one. Raises EngineError.

    ``force`` skips the check of memory and disk.
    """
    package = load_package(root)
    key = wanted_key(package, target, settings)
    reasons = rebuild_reasons(root, key)
    path = sidecars.engine_path(root, target.name)
    if not reasons:
        return StoredEngine(path, sidecars.read_sidecar(root, target.name).sidecar, ())
    if not force:
        size = sum(package.manifest.files[name].size for name in key.graph_sha256)
        check_room(estimate_build(size), root)
    with _locked(root), show(f"Building {target.name} with {target.library.name} {target.library.version}") as progress:
        sidecar = _build(package, key, target, settings, progress)
    return StoredEngine(path, sidecar, tuple(reasons))


def wanted_key(package: Package, target: Target, settings: EngineSettings) -> EngineKey:
    """The key of the engine that these settings ask for."""
    return EngineKey(
        library=target.library.name,
        library_version=target.library.version,
        target=target.name,
        compute_capability=target.compute_capability,
        hardware_compatibility=settings.hardware_compatibility,
        graph_sha256=sidecars.graph_digests(package),
        max_slots=settings.max_slots,
        prefill_tokens=settings.prefill_tokens,
        max_logits=max_prefill_logits(settings.prefill_tokens),
        optimization_level=settings.optimization_level,
        workspace_bytes=settings.workspace_bytes,
    )


def rebuild_reasons(root: Path, key: EngineKey) -> list[str]:
    """Why the package's engine for the key's target must be built: empty when it is there and the wanted one."""
    try:
        engine = sidecars.read_sidecar(root, key.target)
        sidecars.check_plan(engine)
    except EngineError as error:
        return [str(error).split(";")[0]]
    return sidecars.key_differences(engine.sidecar.key, key)


def _build(
    package: Package, key: EngineKey, target: Target, settings: EngineSettings, on_fraction: OnFraction
) -> EngineSidecar:
    root, graph = package.root, package.manifest.graphs[sidecars.TRT_GRAPH]
    built = build_engine(package.path(graph.path), target, settings, on_fraction)
    path = sidecars.engine_path(root, target.name)
    temporary = root.parent / f".{root.name}.{target.name}.engine.partial"
    try:
        with temporary.open("wb") as file:
            file.write(built.plan)
            file.flush()
            os.fsync(file.fileno())
        sidecar = EngineSidecar(
            schema_version=sidecars.SCHEMA_VERSION,
            key=key,
            precision=graph.precision,
            capacity=built.facts.cache_shape[1],
            plan_bytes=len(built.plan),
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
        raise EngineError(f"cannot write {path.name}: {error.strerror}; free some space and build again") from error
    finally:
        temporary.unlink(missing_ok=True)
    return sidecars.sealed(sidecar)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One build of a package's engines at a time."""
    path = root.parent / f".{root.name}.engine.lock"
    with path.open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EngineError(f"another build of engines for {root.name} is running; wait for it") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
