"""Which plan is wanted: its key, from a package's manifest, a target and settings. Compiles nothing."""

from __future__ import annotations

from runtime.errors import PlanError
from runtime.package import plan_sidecar as sidecars
from runtime.package.graph_profiles import max_prefill_logits
from runtime.package.manifest import Package
from runtime.package.plan_sidecar import PlanKey
from runtime.session.kv_budget import MIN_SLOT_TOKENS

from export.plan.settings import PlanSettings
from export.plan.targets import Target


def wanted_key(package: Package, target: Target, settings: PlanSettings) -> PlanKey:
    """The key of the plan that these settings ask for."""
    return PlanKey(
        library=target.library.name,
        library_version=target.library.version,
        target=target.name,
        compute_capability=target.compute_capability,
        hardware_compatibility=settings.hardware_compatibility,
        graph_sha256=sidecars.graph_digests(package),
        max_slots=settings.max_slots,
        max_model_len=_max_model_len(package, settings.max_model_len),
        prefill_tokens=settings.prefill_tokens,
        max_logits=max_prefill_logits(settings.prefill_tokens),
        optimization_level=settings.optimization_level,
        workspace_bytes=settings.workspace_bytes,
        attention=settings.attention,
    )


def _max_model_len(package: Package, wanted: int | None) -> int:
    """The plan's slot length in tokens. Raises PlanError unless the package's graph goes as far."""
    longest = package.manifest.max_model_len
    if wanted is None:
        return longest
    if wanted > longest:
        raise PlanError(
            f"--max-model-len {wanted} is more than the {longest} tokens that the package was exported for; "
            f"{sidecars.longer_export(package, wanted)}"
        )
    if wanted < MIN_SLOT_TOKENS:
        raise PlanError(f"--max-model-len {wanted} is too short; choose {MIN_SLOT_TOKENS} to {longest}")
    return wanted
