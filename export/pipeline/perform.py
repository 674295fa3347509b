"""Does one step: calls the room that builds, and puts what comes of it into the cache or in place.

Runs in the step's own process; the caller's memory, its progress and its end are others' business.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import msgspec
from runtime.package.manifest import load_package
from runtime.package.package_file import sha256_of_file
from runtime.package.plan_sidecar import graph_bytes

from export.errors import SourceError
from export.pipeline.cache import Cache, Stored, new_entry
from export.pipeline.config import TargetTable
from export.pipeline.place import copy_with_plan, place_package, required
from export.pipeline.tasks import (
    BenchTask,
    CachedTask,
    EngineTestTask,
    EvalTask,
    FetchTask,
    PackageTask,
    PlaceTask,
    PlanTask,
    SelfTestTask,
    Task,
)
from export.plan.settings import PlanSettings
from export.progress import Reporter, SilentReporter
from export.source.recipe import FileSource, FolderSource, HubSource, Recipe, WheelSource

PLAIN_NAME = "package"
"""What a package in the cache is called: no name that a person chose decides a byte there."""


def perform(task: Task, cache: Cache, reporter: Reporter) -> None:
    """Do the step unless its result is there. Raises PowertrainError."""
    if isinstance(task, PlaceTask):
        place_package(task, cache, reporter)
        return
    identity, started = task.identity, time.perf_counter()
    with cache.making(identity.key) as files:
        if cache.find(identity.key) is not None:
            reporter.say("another build has made this meanwhile")
            return
        facts = _make(task, files, cache, reporter)
        entry = new_entry(
            files, kind=identity.kind, label=identity.label, key=identity.key, inputs=identity.inputs, facts=facts
        )
        took = msgspec.structs.replace(
            entry, seconds=round(time.perf_counter() - started, 3), peak_memory_bytes=_peak_bytes()
        )
        cache.publish(took, files)


def _peak_bytes() -> int:
    """The most memory that this process, or one of its children, ever had resident."""
    return max(resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _make(task: CachedTask, files: Path, cache: Cache, reporter: Reporter) -> dict[str, str]:
    match task:
        case FetchTask():
            return _fetch(task, files, reporter)
        case PackageTask():
            with cache.reading(task.source_key):
                return _build(task, files, required(cache, task.source_key), reporter)
        case PlanTask():
            with cache.reading(task.package_key):
                return _compile(task, files, required(cache, task.package_key), reporter)
        case SelfTestTask():
            from export.pipeline.self_test import self_test

            with cache.reading(task.package_key):
                return self_test(load_package(required(cache, task.package_key).folder))
        case EvalTask():
            from export.pipeline.measuring import evaluated

            with cache.reading(task.package_key):
                return evaluated(required(cache, task.package_key).folder)
        case BenchTask():
            from export.pipeline.measuring import benchmarked

            with _furnished(task, files, cache) as folder:
                return benchmarked(folder, task.backend, task.target)
        case EngineTestTask():
            from export.pipeline.engine_test import engine_test

            with _furnished(task, files, cache) as folder:
                return engine_test(load_package(folder), task.backend, task.target)


@contextmanager
def _furnished(task: BenchTask | EngineTestTask, files: Path, cache: Cache) -> Iterator[Path]:
    """The folder of a package to run: the one in the cache, or a copy with the plan in it, for as long as it runs."""
    keys = [task.package_key, *([] if task.plan_key is None else [task.plan_key])]
    with ExitStack() as held:
        for key in keys:
            held.enter_context(cache.reading(key))
        package, *plans = (required(cache, key) for key in keys)
        if not plans or task.target is None:
            yield package.folder
            return
        folder = files.parent / "package"  # killed or not, the next step of this key finds its place empty
        try:
            copy_with_plan(package, plans[0], task.target, folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(task: FetchTask, files: Path, reporter: Reporter) -> dict[str, str]:
    """Facts: digests of checkpoint and licence, where it is (from the entry's files, or absolute), name, revision."""
    from export.source.opener import CACHE_FOLDER, open_source, source_folder

    source, base = task.recipe.source, Path(task.base)
    is_remote = isinstance(source, WheelSource | HubSource)
    if isinstance(source, WheelSource):
        _seed(source, base / CACHE_FOLDER, files / CACHE_FOLDER)
    opened = open_source(task.recipe, files if is_remote else base, reporter)
    match source:
        case WheelSource():
            path = _member(source, files / CACHE_FOLDER)
        case HubSource():
            path = source_folder(task.recipe, files, SilentReporter())
        case _:
            path = base / source.path
    licence = opened.license_text or ""
    return {
        "weights": opened.info.sha256,
        "checkpoint": path.relative_to(files).as_posix() if is_remote else str(path.absolute()),
        "name": opened.info.name,
        "revision": opened.info.revision,
        "licence": hashlib.sha256(licence.encode()).hexdigest() if licence else "",
    }


def _seed(source: WheelSource, kept: Path, folder: Path) -> None:
    """Take what ``powertrain export`` downloaded before; whether it is the right file is asked when it is opened."""
    folder.mkdir(parents=True)
    for path in (_member(source, kept), kept / f"{source.member_sha256}.LICENSE"):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def _member(source: WheelSource, folder: Path) -> Path:
    return folder / f"{source.member_sha256}{Path(source.member).suffix}"


def _build(task: PackageTask, files: Path, source: Stored, reporter: Reporter) -> dict[str, str]:
    from export.package.builder import build_package

    facts = source.entry.facts
    recipe = _pinned_to(task.recipe, source)
    built = build_package(recipe, source.folder, files, reporter, task.available_bytes)
    if built.manifest.source.sha256 != facts["weights"]:
        raise SourceError("the checkpoint changed while it was built; run the build again")
    return {"pin": built.pin_text} if built.pin_text else {}


def _pinned_to(recipe: Recipe, source: Stored) -> Recipe:
    """The recipe with the checkpoint that was fetched, and with no other that may be there by now."""
    facts = source.entry.facts
    checkpoint = str(source.folder / facts["checkpoint"])
    found: FileSource | FolderSource
    match recipe.source:
        case WheelSource():
            return recipe
        case FileSource():
            found = FileSource(path=checkpoint, sha256=facts["weights"])
        case FolderSource() | HubSource():
            found = FolderSource(path=checkpoint)
    return msgspec.structs.replace(recipe, source=found)


def _compile(task: PlanTask, files: Path, source: Stored, reporter: Reporter) -> dict[str, str]:
    from export.plan.estimate import check_room, estimate_build
    from export.plan.store import write_plan
    from export.plan.targets import parse_targets
    from export.plan.wanted import wanted_key

    package, settings = load_package(source.folder), plan_settings(task.target)
    (target,) = parse_targets(task.target.name, library_name(task.target))
    key = wanted_key(package, target, settings)
    check_room(estimate_build(graph_bytes(package)), files, task.available_bytes)
    title = f"Building {target.name} with {target.library.name} {target.library.version}"
    path = files / f"{target.name}.plan"
    with reporter.stage(title, 1000) as advance:
        done = 0

        def report(fraction: float) -> None:
            nonlocal done
            advance(int(fraction * 1000) - done)
            done = int(fraction * 1000)

        write_plan(package, key, target, settings, report, path=path, temporary=files / ".partial")
    return {"target": target.name}


def plan_settings(table: TargetTable) -> PlanSettings:
    """A ``[[target]]`` as ``powertrain engine`` would have it."""
    return PlanSettings(
        max_slots=table.max_slots,
        max_model_len=table.max_model_len,
        prefill_tokens=table.prefill_tokens,
        optimization_level=table.optimization_level,
        workspace_bytes=table.workspace_mib * 2**20,
        hardware_compatibility=table.hardware_compatibility,
    )


def library_name(table: TargetTable) -> Literal["tensorrt", "tensorrt_rtx"] | None:
    """The library as ``export.plan`` spells it."""
    if table.library is None:
        return None
    return "tensorrt" if table.library == "tensorrt" else "tensorrt_rtx"


def file_digest(path: Path) -> str:
    """sha256 of a file that a pipeline names. Raises SourceError if it cannot be read."""
    try:
        return sha256_of_file(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
