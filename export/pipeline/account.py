"""The outcomes of a build -> its report. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from export.pipeline.build_report import BuildReport, PackageReport, PlanReport, Result, StepReport
from export.pipeline.cache import Stored
from export.pipeline.gates import Measures
from export.pipeline.measures import measures_of
from export.pipeline.runner import Outcome, State
from export.pipeline.steps import PlaceStep

_RESULTS: Mapping[int, Result] = {0: "built", 3: "nothing to do", 4: "worse than allowed", 5: "failed"}


def build_report(outcomes: Sequence[Outcome], *, pipeline: str, status: int, seconds: float) -> BuildReport:
    """``status`` is one of 0, 3, 4 and 5 (nothing to do being 3), ``pipeline`` the file's name."""
    done = {one.step.name: one.stored for one in outcomes if one.stored is not None}
    places = [(one, one.step) for one in outcomes if isinstance(one.step, PlaceStep)]
    return BuildReport(
        powertrain=metadata.version("powertrain"),
        pipeline=pipeline,
        result=_RESULTS[status],
        status=status,
        seconds=round(seconds, 3),
        steps=[_step(one) for one in outcomes],
        packages=sorted((_package(outcome, step, done) for outcome, step in places), key=lambda one: one.name),
    )


def _step(outcome: Outcome) -> StepReport:
    return StepReport(
        kind=outcome.step.kind,
        label=outcome.step.label,
        state=outcome.state.value,
        text=outcome.text,
        seconds=round(outcome.seconds, 3),
        log=None if outcome.log is None else Path(*outcome.log.parts[-3:]).as_posix(),
    )


def _package(outcome: Outcome, step: PlaceStep, done: Mapping[str, Stored]) -> PackageReport:
    measures = measures_of(step, done)
    package = done.get(step.package)
    return PackageReport(
        name=step.label,
        is_placed=outcome.state in {State.FRESH, State.BUILT},
        measures=_numbers(measures.get((step.label, None), {})),
        build_seconds=None if package is None else package.entry.seconds,
        plans=[
            PlanReport(
                target=target,
                measures=_numbers(measures.get((step.label, target), {})),
                build_seconds=done[name].entry.seconds if name in done else None,
            )
            for target, name in sorted(step.plans.items())
        ],
        gates=list(outcome.findings),
    )


def _numbers(measures: Measures) -> dict[str, float]:
    """Without what is no number, for which JSON has no word; a gate has seen it."""
    return {name: value for name, value in measures.items() if math.isfinite(value)}
