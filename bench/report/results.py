"""The result file's schema: everything a table, a plot or a later comparison needs, and nothing that needs this run.

Versioned; a reader refuses what it does not know. Computes only the summaries over repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import BenchError, unreadable
from bench.metrics.catalog import FORMULA_VERSION, METRICS, Metric
from bench.metrics.checks import Check
from bench.metrics.metrics import Measurement
from bench.metrics.records import Phase, RequestRecord
from bench.metrics.server_metrics import ServerSeries
from bench.metrics.stalls import StallReport
from bench.metrics.stats import Interval, t_interval

SCHEMA = "powertrain-bench-http"
SCHEMA_VERSION = 1


class RequestTable(msgspec.Struct, frozen=True):
    """Measured requests in columns, ms from the run's first request; -1 where a moment never came."""

    scheduled_ms: list[float]
    sent_ms: list[float]
    first_ms: list[float]
    last_ms: list[float]
    output_tokens: list[int]
    outcome: list[str]


class RunResult(msgspec.Struct, frozen=True):
    """One run of one load against one target. ``server`` is what the target told of itself, if it was asked."""

    started_unix: float
    measurement: Measurement
    checks: list[Check]
    requests: RequestTable
    stalls: StallReport | None = None
    stop_reason: str | None = None
    server: ServerSeries | None = None


class Point(msgspec.Struct, frozen=True):
    """All repeats of one load against one target. ``concurrency`` or ``request_rate`` is set by the kind of load.

    ``isl`` and ``osl`` are the lengths of prompts and answers that were asked for, as a person writes them; empty in
    results of older versions.
    """

    target: str
    url: str
    model: str
    load: str
    concurrency: int | None
    request_rate: float | None
    runs: list[RunResult]
    isl: str = ""
    osl: str = ""


class Report(msgspec.Struct, frozen=True):
    """A whole benchmark: what was run, on what, and every result."""

    schema: str
    schema_version: int
    formula_version: int
    tool_version: str
    created_unix: float
    title: str
    settings: dict[str, Any]
    environment: dict[str, str]
    points: list[Point]
    definitions: list[Metric]


def new_report(title: str, settings: dict[str, Any], environment: dict[str, str], points: list[Point]) -> Report:
    """A report of the current schema. ``environment`` must hold ``powertrain`` and ``unix_time``."""
    return Report(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        formula_version=FORMULA_VERSION,
        tool_version=environment["powertrain"],
        created_unix=float(environment["unix_time"]),
        title=title,
        settings=settings,
        environment=environment,
        points=points,
        definitions=list(METRICS),
    )


def zero_ns(records: Sequence[RequestRecord]) -> int:
    """Where a run's time axis begins: when the first measured request was due; 0 without any."""
    return min((record.scheduled_ns for record in records if record.phase is Phase.MEASURED), default=0)


def request_table(records: Sequence[RequestRecord]) -> RequestTable:
    """Columns of the measured requests."""
    rows = [record for record in records if record.phase is Phase.MEASURED]
    begin_ns = zero_ns(records)

    def since(moment_ns: int) -> float:
        return round((moment_ns - begin_ns) / 1e6, 3) if moment_ns else -1.0

    return RequestTable(
        scheduled_ms=[since(record.scheduled_ns) for record in rows],
        sent_ms=[since(record.sent_ns) for record in rows],
        first_ms=[since(int(record.chunk_ns[0])) if len(record.chunk_ns) else -1.0 for record in rows],
        last_ms=[since(int(record.chunk_ns[-1])) if len(record.chunk_ns) else -1.0 for record in rows],
        output_tokens=[record.output_tokens for record in rows],
        outcome=[record.outcome.value for record in rows],
    )


def figure(run: RunResult, name: str) -> float | None:
    """A figure by name: a run total (``output_tps``) or ``metric.statistic`` (``ttft.p50``); None where undefined."""
    key, _, statistic = name.partition(".")
    if not statistic:
        return run.measurement.totals.get(key)
    found = run.measurement.distributions.get(key)
    return None if found is None else found.at(statistic)


def over_repeats(point: Point, name: str) -> tuple[float | None, Interval | None]:
    """Mean of a figure over the repeats and its 95 % interval (two or more repeats)."""
    values = [value for run in point.runs if (value := figure(run, name)) is not None]
    if not values:
        return None, None
    return sum(values) / len(values), t_interval(values)


def load_report(path: Path) -> Report:
    """Read a result file. Raises BenchError if it is none, or of another schema version."""

    class _Head(msgspec.Struct):
        schema: str
        schema_version: int

    try:
        data = path.read_bytes()
        head = msgspec.json.decode(data, type=_Head)
    except OSError as error:
        raise unreadable(path, error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BenchError(f"{path.name} is not a result of 'powertrain bench http': {error}") from error
    if (head.schema, head.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise BenchError(
            f"{path.name} has schema {head.schema} {head.schema_version}, this powertrain reads {SCHEMA} "
            f"{SCHEMA_VERSION}; measure again"
        )
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.MsgspecError as error:
        raise BenchError(f"{path.name} is damaged: {error}") from error
