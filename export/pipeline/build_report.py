"""A build's report: what each step and each package came to. Owns the JSON, which is also the next build's baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from export.errors import PipelineError
from export.pipeline.gates import Finding, Measures, Subject

SCHEMA = "powertrain-build"
SCHEMA_VERSION = 1
_MAX_BYTES = 2**26

StepState = Literal["fresh", "built", "worse than allowed", "failed", "not done"]
Result = Literal["built", "nothing to do", "worse than allowed", "failed"]


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A step's end. ``seconds`` are what its process took in this build, or 0; ``log`` counts from the cache."""

    kind: str
    label: str
    state: StepState
    text: str
    seconds: float
    log: str | None


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """A plan for ``target``. ``measures`` by metric; ``build_seconds`` whenever it was built, None if it is not."""

    target: str
    measures: dict[str, float]
    build_seconds: float | None


class PackageReport(msgspec.Struct, frozen=True, kw_only=True):
    """A package. ``measures`` by metric, ``size`` in bytes without plans; ``is_placed``: it is where it is served from.

    ``build_seconds`` are those of its graphs and its quality report, whenever they were made.
    """

    name: str
    is_placed: bool
    measures: dict[str, float]
    build_seconds: float | None
    plans: list[PlanReport]
    gates: list[Finding]


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """One build of the pipeline file ``pipeline``. ``status`` is the exit status that says the same as ``result``."""

    schema: str = SCHEMA
    schema_version: int = SCHEMA_VERSION
    powertrain: str
    pipeline: str
    result: Result
    status: int
    seconds: float
    steps: list[StepReport]
    packages: list[PackageReport]

    def measures(self) -> dict[Subject, Measures]:
        """All figures, by what they are of."""
        return dict(self._measures())

    def _measures(self) -> Iterator[tuple[Subject, Measures]]:
        for package in self.packages:
            yield (package.name, None), package.measures
            yield from (((package.name, plan.target), plan.measures) for plan in package.plans)


def report_json(report: BuildReport) -> bytes:
    """For machines, and for ``read_report``."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def read_report(path: Path) -> BuildReport:
    """The report of an earlier build. Raises PipelineError naming the file."""
    way = "give the JSON that 'powertrain build --report FILE.json' wrote, or no --baseline in a first build"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PipelineError(f"{path}: larger than {_MAX_BYTES} bytes; {way}")
        report = msgspec.json.decode(path.read_bytes(), type=BuildReport)
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror}); {way}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} is no report of a build ({error}); {way}") from error
    if (report.schema, report.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise PipelineError(f"{path} has schema {report.schema} {report.schema_version}; {way}")
    return report
