"""What ``powertrain inspect`` says of a package's engines: what each is, and why it must be rebuilt if it must."""

from __future__ import annotations

from importlib import metadata

import msgspec
from runtime import engine_sidecar as sidecars
from runtime.engine_sidecar import EngineError, EngineKey
from runtime.manifest import Package

from export.engine_store import rebuild_reasons

_DISTRIBUTIONS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


def describe_engines(package: Package) -> dict[str, str]:
    """Target -> one line. An engine is measured against the package's graph and the library installed here."""
    return {target: _line(package, target) for target in sidecars.engine_targets(package.root)}


def _line(package: Package, target: str) -> str:
    root = package.root
    try:
        built = sidecars.read_sidecar(root, target).sidecar
        reasons = rebuild_reasons(root, _key_of_today(package, built.key))
    except EngineError as error:
        return f"rebuild needed because {error}"
    if reasons:
        return f"rebuild needed because {'; '.join(reasons)}: {sidecars.rebuild_command(root, target)}"
    key = built.key
    return (
        f"{key.library} {key.library_version}, {built.plan_bytes / 2**20:.0f} MiB, {key.max_slots} slots of "
        f"{built.capacity} tokens, prefill by {key.prefill_tokens}, built in {built.build_seconds:.0f} s"
    )


def _key_of_today(package: Package, built: EngineKey) -> EngineKey:
    """The key that the same wish has now; a library that is not installed counts as unchanged."""
    try:
        version = metadata.version(_DISTRIBUTIONS.get(built.library, built.library))
    except metadata.PackageNotFoundError:
        version = built.library_version
    return msgspec.structs.replace(built, library_version=version, graph_sha256=sidecars.graph_digests(package))
