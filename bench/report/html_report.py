"""One self-contained HTML page of a report: figures, checks, charts, definitions. No network.

Whole without its one script, which tells values, zooms and hides series. The page's policy admits this
script and this style by their digests, and nothing else. Reads a report as saved; measures nothing.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from bench.metrics.catalog import explain
from bench.report.charts import comparison, ecdf, histogram, latency_over_load, throughput_over_latency
from bench.report.results import Point, Report, over_repeats
from bench.report.samples import lengths_line, lengths_of_all
from bench.report.tables import (
    Table,
    checks_table,
    compare_table,
    latency_table,
    number,
    stalls_table,
    sweep_table,
    totals_table,
)
from bench.report.time_charts import time_charts

_SCRIPT = ("scale", "mark", "chart")
"""Files of the page's script, in the order in which they build on each other."""
_CHARTED = ("ttft", "tpot", "itl", "request_latency")


def report_html(report: Report) -> str:
    """The page."""
    parts = [_head(report), _cards(report), _failed_checks(report)]
    if len(report.points) > 1:
        parts.append(_section("All loads", _table(sweep_table(report.points)), _sweep_charts(report.points)))
        compared = compare_table(report.points)
        if compared is not None:
            parts.append(_section("Comparison", _table(compared), _comparison_charts(report.points)))
        parts.append(_section("Distributions", _grid(ecdf(key, report.points) for key in _CHARTED)))
    parts += [_point(number, point, alone=len(report.points) == 1) for number, point in enumerate(report.points)]
    parts += [_definitions(report), _environment(report)]
    style = _beside("report.css")
    script = f"(() => {{\n{''.join(_beside(f'script/{name}.js') for name in _SCRIPT)}}})();\n"
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    policy += "; base-uri 'none'; form-action 'none'"
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    meta += '<meta name="viewport" content="width=device-width,initial-scale=1">'
    head = f"<head>{meta}<title>{escape(report.title)}</title><style>{style}</style></head>"
    body = f"<main>{''.join(parts)}</main><script>{script}</script>"
    return f'<!doctype html><html lang="en">{head}<body>{body}</body></html>\n'


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """What a content security policy knows an inline script or style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _head(report: Report) -> str:
    checks = [check for point in report.points for run in point.runs for check in run.checks]
    tainted = sum(check.ok is False for check in checks)
    stopped = {run.stop_reason for point in report.points for run in point.runs if run.stop_reason}
    badge = '<span class="badge good">every check passed</span>'
    if tainted:
        badge = f'<span class="badge warn">{tainted} check{"s" if tainted > 1 else ""} failed: read them first</span>'
    notes = "".join(f'<span class="badge warn">partial: {escape(reason)}</span>' for reason in sorted(stopped))
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.created_unix))
    models = ", ".join(dict.fromkeys(point.model for point in report.points))
    line = f"{escape(models)} · {when} · powertrain {escape(report.tool_version)} · formulas v{report.formula_version}"
    points = report.points
    lengths = lengths_line(points[0]) if len(points) == 1 else lengths_of_all(points) if points else ""
    head = f"<h1>{escape(report.title)}</h1><p>{line}</p><p>{escape(lengths)}</p>"
    return f"<header>{head}<p>{badge}{notes}</p></header>"


def _cards(report: Report) -> str:
    """The headline: the figures of the only load, or the best of each over the loads."""
    wanted = (
        ("Time to first token", "ttft.p50", "ms", min),
        ("Time per output token", "tpot.p50", "ms", min),
        ("Output throughput", "output_tps", "tok/s", max),
        ("Request latency", "request_latency.p50", "ms", min),
    )
    cards = []
    for title, key, unit, best in wanted:
        values = [(mean, point.load) for point in report.points if (mean := over_repeats(point, key)[0]) is not None]
        if not values:
            continue
        value, load = best(values)
        detail = f"median · {load}" if "." in key else load
        body = f"<b>{number(value)}<small> {unit}</small></b><em>{escape(detail)}</em>"
        prefix = "best " if len(values) > 1 else ""
        cards.append(f"<div><span>{prefix}{title.lower() if prefix else title}</span>{body}</div>")
    return f'<section class="cards">{"".join(cards)}</section>'


def _failed_checks(report: Report) -> str:
    """What a reader must know before believing any figure below."""
    lines = [
        f"<li><b>{escape(check.title)}</b>, {escape(f'{point.target}, {point.load}: {check.detail}')}</li>"
        for point in report.points
        for check in point.runs[-1].checks
        if check.ok is False
    ]
    return f'<section class="tainted"><h2>Read these first</h2><ul>{"".join(lines)}</ul></section>' if lines else ""


def _point(number_of_point: int, point: Point, *, alone: bool) -> str:
    run = point.runs[-1]
    charts = [
        histogram(key, found) for key in _CHARTED if (found := run.measurement.distributions.get(key)) is not None
    ]
    tables = [_table(latency_table(point)), _table(totals_table(point))]
    stalls = stalls_table(point)
    if stalls is not None:
        tables.append(_table(stalls))
    errors = "".join(
        f'<p class="error">{count} failed with {escape(kind)}: {escape(run.measurement.error_examples[kind])}</p>'
        for kind, count in run.measurement.errors.items()
    )
    wide = "".join(time_charts(point, f"time-{number_of_point}"))
    asked = f'<p class="asked">{escape(lengths_line(point))}</p>'
    timed = f'<h3>Over time</h3><div class="wide">{wide}{_missing(point)}</div>' if wide else ""
    body = asked + "".join(tables) + errors + _checks(point) + _grid(charts) + timed
    name = f"{point.target} · {point.load}"
    if alone:
        return _section(name, body)
    return f"<details><summary>{escape(name)}</summary><section>{body}</section></details>"


def _missing(point: Point) -> str:
    """Why the endpoint's own metrics are not there, or not whole; empty where they are, or were not asked for."""
    server = point.runs[-1].server
    if server is None or server.problem is None:
        return ""
    if not server.at_ms:
        return f'<p class="note">No server metrics: {escape(server.problem)}.</p>'
    text = f"{server.num_failed} of {server.num_failed + len(server.at_ms)} readings of the server's metrics failed"
    return f'<p class="note">{text}; the first: {escape(server.problem)}.</p>'


def _checks(point: Point) -> str:
    marks = {"ok": "✓", "TAINTED": "!", "not checked": "–"}
    rows = []
    for title, verdict, value, limit, detail in checks_table(point).rows:
        css = {"ok": "good", "TAINTED": "warn"}.get(verdict, "none")
        against = f"{value} (limit {limit})" if value != "-" else verdict
        rows.append(
            f'<li class="{css}"><i>{marks[verdict]}</i><b>{escape(title)}</b> {escape(against)}<br>'
            f"<small>{escape(detail)}</small></li>"
        )
    return f'<h3>Honesty checks</h3><ul class="checks">{"".join(rows)}</ul>'


def _sweep_charts(points: Sequence[Point]) -> str:
    if max(sum(other.target == point.target for other in points) for point in points) < 2:
        return ""
    return _grid(
        [
            throughput_over_latency(points),
            latency_over_load(points, "ttft"),
            latency_over_load(points, "tpot"),
            latency_over_load(points, "request_latency"),
        ]
    )


def _comparison_charts(points: Sequence[Point]) -> str:
    figures = (
        ("ttft.p50", "Time to first token, p50 [ms]"),
        ("tpot.p50", "Time per output token, p50 [ms]"),
        ("output_tps", "Output throughput [tok/s]"),
        ("request_latency.p50", "Request latency, p50 [ms]"),
    )
    return _grid(comparison(points, key, title) for key, title in figures)


def _definitions(report: Report) -> str:
    items = "".join(f"<li>{escape(explain(metric))}</li>" for metric in report.definitions)
    return f"<details><summary>How each figure is computed</summary><ul class=defs>{items}</ul></details>"


def _environment(report: Report) -> str:
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in report.environment.items())
    flags = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in report.settings.items())
    return (
        f"<details><summary>Machine, versions and settings</summary><div class=grid><table>{rows}</table>"
        f"<table>{flags}</table></div></details>"
    )


def _section(title: str, *bodies: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(bodies)}</section>"


def _grid(charts: Iterable[str]) -> str:
    cells = "".join(f"<div>{chart}</div>" for chart in charts if chart)
    return f'<div class="grid">{cells}</div>' if cells else ""


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    figures = f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">{figures}</div>{note}'
