"""What steps measured of a package and of its plans, by metric. Reads manifests and facts; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping

from export.pipeline.cache import Stored
from export.pipeline.gates import Subject
from export.pipeline.steps import Done, PlaceStep, package_of

FACTS = frozenset({"accuracy", "accuracy_error", "bits_per_byte", "kl", "prefill_tokens_per_s", "tokens_per_s"})
"""Facts of steps that are figures of what they ran, numbers as text."""


def measures_of(step: PlaceStep, done: Done) -> dict[Subject, dict[str, float]]:
    """Metric -> value of the package that ``step`` places, and of each of its plans, as far as ``done`` has them.

    Sizes are bytes, of the package without its plans; quality is that of the build's own report.
    """
    found: dict[Subject, dict[str, float]] = {}
    if (package := done.get(step.package)) is not None:
        found[step.label, None] = _of_package(package)
    for target, name in step.plans.items():
        if (plan := done.get(name)) is not None:
            found[step.label, target] = {"size": float(plan.entry.files[f"{target}.plan"].size)}
    for stored in (done[name] for name in step.needs if name in done):
        figures = _figures(stored.entry.facts)
        if figures:
            found.setdefault((step.label, stored.entry.facts.get("target")), {}).update(figures)
    return found


def _of_package(package: Stored) -> dict[str, float]:
    manifest = package_of(package).manifest
    measured = {"size": float(sum(info.size for info in manifest.files.values()))}
    if (quality := manifest.quality) is not None:
        measured |= {
            "kl": quality.mean_kl,
            "top1_agreement": quality.top1_agreement,
            "perplexity": quality.perplexity,
            "reference_perplexity": quality.reference_perplexity,
        }
    return measured


def _figures(facts: Mapping[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in facts.items() if name in FACTS}
