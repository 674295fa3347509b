"""What ``powertrain inspect`` says of a package's plans: what each is, and why it must be rebuilt if it must."""

from __future__ import annotations

from importlib import metadata

import msgspec
from runtime.errors import PlanError
from runtime.package import plan_sidecar as sidecars
from runtime.package.manifest import Package
from runtime.package.plan_sidecar import PlanKey

from export.plan.store import rebuild_reasons

_DISTRIBUTIONS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


def describe_plans(package: Package) -> dict[str, str]:
    """Target -> one line. A plan is measured against the package's graph and the library installed here."""
    return {target: _line(package, target) for target in sidecars.plan_targets(package.root)}


def _line(package: Package, target: str) -> str:
    root = package.root
    try:
        built = sidecars.read_sidecar(root, target).sidecar
        reasons = rebuild_reasons(root, _key_of_today(package, built.key))
    except PlanError as error:
        return f"rebuild needed because {error}"
    if reasons:
        return f"rebuild needed because {'; '.join(reasons)}: {sidecars.rebuild_command(root, target)}"
    key = built.key
    return (
        f"{key.library} {key.library_version}, {built.plan_bytes / 2**20:.0f} MiB, {key.max_slots} slots of "
        f"{key.max_model_len} tokens, prefill by {key.prefill_tokens}, attention by {key.attention}, "
        f"built in {built.build_seconds:.0f} s"
    )


def _key_of_today(package: Package, built: PlanKey) -> PlanKey:
    """The key that the same wish has now; a library that is not installed counts as unchanged."""
    try:
        version = metadata.version(_DISTRIBUTIONS.get(built.library, built.library))
    except metadata.PackageNotFoundError:
        version = built.library_version
    return msgspec.structs.replace(built, library_version=version, graph_sha256=sidecars.graph_digests(package))
