"""Writes result files: JSON (the whole report), JSONL (one line per request), CSV (one line per load), Markdown.

Every file is written beside its name and renamed, so a half-written one never looks whole.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from runtime.unwritten import why_unwritten

from bench.errors import BenchError
from bench.metrics.catalog import explain
from bench.metrics.metrics import per_request
from bench.metrics.records import Outcome, RequestRecord
from bench.metrics.stats import PERCENTILES, percentile_name
from bench.report.results import Point, Report, over_repeats
from bench.report.tables import checks_table, compare_table, latency_table, machine_line, sweep_table, totals_table

_PROBE, _PROBE_BYTES = ".powertrain-probe", 64 * 1024  # about what a result takes


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, making its folder if needed. Raises BenchError where that cannot be."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise BenchError(f"cannot write {path}: {why_unwritten(error, path)}") from error


def check_writable(folder: Path | None) -> None:
    """Raise BenchError unless a file can be written into ``folder``, which is made: before minutes are measured."""
    if folder is None:
        return
    write_whole(folder / _PROBE, bytes(_PROBE_BYTES))
    (folder / _PROBE).unlink()


def report_json(report: Report) -> bytes:
    """The whole report, indented, for machines and later comparisons."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def requests_jsonl(labelled: Iterable[tuple[str, str, int, RequestRecord]]) -> bytes:
    """One line per request of any phase, from (target, load, repeat, record): its metrics and chunk arrivals in ms."""
    lines = []
    for target, load, repeat, record in labelled:
        row: dict[str, object] = {
            "target": target,
            "load": load,
            "repeat": repeat,
            "index": record.index,
            "session": record.session,
            "turn": record.turn,
            "phase": record.phase.value,
            "outcome": record.outcome.value,
            "scheduled_ns": record.scheduled_ns,
            "sent_ns": record.sent_ns,
            "end_ns": record.end_ns,
            "chunks_ms": [round((int(moment) - record.sent_ns) / 1e6, 4) for moment in record.chunk_ns],
            "asked_tokens": record.asked_tokens,
            "usage_tokens": record.completion_tokens,
            "own_tokens": record.own_tokens,
            "cached_tokens": record.cached_tokens,
            "finish_reason": record.finish_reason,
            "error_kind": record.error_kind,
            "error": record.error_text,
            "metrics": per_request(record) if record.outcome is Outcome.OK else {},
        }
        lines.append(msgspec.json.encode(row))
    return b"\n".join(lines) + b"\n"


def points_csv(points: Sequence[Point]) -> bytes:
    """One line per load and target: run totals; each metric's sample size, mean, std, min, max and percentiles."""
    statistics = ("count", "mean", "std", "min", "max", *(percentile_name(percent) for percent in PERCENTILES))
    totals = sorted({key for point in points for run in point.runs for key in run.measurement.totals})
    metrics = sorted({key for point in points for run in point.runs for key in run.measurement.distributions})
    names = [*totals, *(f"{key}.{statistic}" for key in metrics for statistic in statistics)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["target", "model", "load", "isl", "osl", "repeats", *names])
    for point in points:
        values = (over_repeats(point, name)[0] for name in names)
        facts = (point.target, point.model, point.load, point.isl, point.osl, len(point.runs))
        writer.writerow([*facts, *("" if value is None else f"{value:.6g}" for value in values)])
    return out.getvalue().encode()


def report_markdown(report: Report, *, definitions: bool) -> str:
    """The tables of a report, the machine that they were measured on and, if wanted, every metric's formula."""
    parts = []
    if len(report.points) > 1:
        parts.append(sweep_table(report.points).markdown())
    if (compared := compare_table(report.points)) is not None:
        parts.append(compared.markdown())
    for point in report.points:
        parts += [latency_table(point).markdown(), totals_table(point).markdown(), checks_table(point).markdown()]
    parts.append(machine_line(report.environment) + "\n")
    if definitions:
        parts += [f"* {explain(metric)}" for metric in report.definitions]
    return "\n".join(parts)
