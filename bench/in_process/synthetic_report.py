"""The result of the engine bench on a synthetic session: schema, tables, and the verdict against a baseline."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from bench.errors import BenchError, unreadable
from bench.metrics.stats import bootstrap_median_ratio
from bench.report.tables import Table, number

SCHEMA = "powertrain-bench-engine-synthetic"
SCHEMA_VERSION = 1


class HostStep(msgspec.Struct, frozen=True):
    """What a decode step of ``batch`` rows costs the engine's thread beside the model, in CPU time.

    ``samples_us`` is one number per step, ``parts_us`` the medians of what it is made of.
    """

    vocab_size: int
    batch: int
    sampling: str
    samples_us: list[float]
    parts_us: dict[str, float]

    @property
    def name(self) -> str:
        """Names the test in tables and against a baseline."""
        return f"{self.vocab_size} b{self.batch} {self.sampling}"

    @property
    def median_us(self) -> float:
        """Median CPU time of a step."""
        return float(np.median(self.samples_us))


class StreamSpeed(msgspec.Struct, frozen=True):
    """Tokens that ``streams`` requests got through ``AsyncEngine`` together, by the clock and by the process's CPU."""

    vocab_size: int
    streams: int
    sampling: str
    num_tokens: int
    seconds: float
    cpu_seconds: float


class SyntheticReport(msgspec.Struct, frozen=True):
    """One run of ``bench engine --synthetic``."""

    schema: str
    schema_version: int
    steps: list[HostStep]
    streams: list[StreamSpeed]
    environment: dict[str, str]


def steps_table(report: SyntheticReport) -> Table:
    """Each part of a step, in milliseconds of CPU time."""
    names = list(dict.fromkeys(name for step in report.steps for name in step.parts_us))
    rows = []
    for step in report.steps:
        parts = (f"{step.parts_us.get(name, 0.0) / 1e3:.3f}" for name in names)
        rows.append((step.name, *parts, f"{step.median_us / 1e3:.3f}", number(step.median_us / step.batch)))
    title = "Host work of a decode step, median CPU ms of the engine's thread"
    return Table(title, ("V, batch, sampling", *names, "step", "per row [us]"), tuple(rows))


def streams_table(report: SyntheticReport) -> Table:
    """Throughput through ``AsyncEngine``."""
    rows = tuple(
        (
            f"{speed.vocab_size} x{speed.streams} {speed.sampling}",
            number(speed.num_tokens / speed.seconds),
            number(1e6 * speed.cpu_seconds / speed.num_tokens),
        )
        for speed in report.streams
    )
    return Table("Through AsyncEngine, zero compute", ("V, streams, sampling", "tok/s", "CPU per token [us]"), rows)


def judge_steps(new: SyntheticReport, old: SyntheticReport, threshold_percent: float) -> tuple[Table, bool]:
    """Every step that both reports hold, as old time / new time; True when one got slower.

    ``slower`` only when the whole 95 % bootstrap interval of the ratio of medians lies more than ``threshold_percent``
    below 1. BenchError when the reports share none.
    """
    before = {step.name: step for step in old.steps}
    margin = threshold_percent / 100.0
    rows = []
    for step in new.steps:
        if step.name in before:
            ratio = bootstrap_median_ratio(np.asarray(before[step.name].samples_us), np.asarray(step.samples_us))
            word = "slower" if ratio.high < 1 - margin else "faster" if ratio.low > 1 + margin else "same"
            rows.append((step.name, f"{ratio.centre:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}", word))
    if not rows:
        raise BenchError("the baseline holds none of these steps; run it with the same vocabularies and batches")
    title = "Against the baseline: old / new CPU time of a step"
    table = Table(title, ("test", "ratio", "95 % interval", "verdict"), tuple(rows))
    return table, any(row[-1] == "slower" for row in rows)


def load_synthetic_report(path: Path) -> SyntheticReport:
    """Read a saved report. Raises BenchError."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=SyntheticReport)
    except OSError as error:
        raise unreadable(path, error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BenchError(f"{path.name} is not a result of 'powertrain bench engine --synthetic': {error}") from error
    if (report.schema, report.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise BenchError(f"{path.name} has schema {report.schema} {report.schema_version}; measure the baseline again")
    return report
