"""Charts over a run's time: each request, its latencies, and below them what the endpoint told of itself meanwhile.

All of one run share width, margins and time axis, so that what happened at one moment stands in one column. Seconds
count from when the first measured request was due. Draws what a result holds; computes nothing but where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import numpy as np

from bench.metrics.catalog import BY_KEY
from bench.metrics.server_metrics import SERVER_METRICS, ServerMetric, ServerSeries
from bench.report.results import Point, RequestTable
from bench.report.svg import Chart, series
from bench.report.tables import number

_WIDTH = 1060
_TIMELINE_ROWS = 300
_DOTS = 1000
_PER_CENT = "%"
_MUCH = 50.0
_Row = TypeVar("_Row")


def time_charts(point: Point, axis: str) -> list[str]:
    """All charts of the last repeat, empty without a request; ``axis`` names the time axis that they share."""
    table, server = point.runs[-1].requests, point.runs[-1].server
    if not table.sent_ms:
        return []
    span_s = max(*table.last_ms, *table.sent_ms, *(server.at_ms if server else ()), 1.0) / 1000
    charts = [_timeline(table, axis, span_s)]
    charts += [_latencies(table, key, axis, span_s) for key in ("ttft", "tpot")]
    if server is not None:
        panels = groupby((one for one in SERVER_METRICS if one.key in server.values), key=lambda one: one.panel)
        charts += [_panel(title, list(metrics), server, axis, span_s) for title, metrics in panels]
    return [chart for chart in charts if chart]


def _timeline(table: RequestTable, axis: str, span_s: float) -> str:
    """Each request as a bar: waiting in the client, until the first token, until the last."""
    count = len(table.sent_ms)
    kept = _spread(sorted(range(count), key=lambda index: table.sent_ms[index]), _TIMELINE_ROWS)
    height = max(200, min(640, 90 + 7 * len(kept)))
    title = "Requests in time" + _share(len(kept), count)
    chart = Chart(title, "seconds", "requests by start", width=_WIDTH, height=height, axis=axis)
    chart.set_x(0, span_s)
    chart.set_y(len(kept), 0)
    pitch = (chart.y.start - chart.y.end) / len(kept)
    for row, index in enumerate(kept):
        top = chart.y.end + row * pitch + pitch * 0.12
        _request_bar(chart, table, index, (top, top + pitch * 0.76))
    chart.legend = [("client queue", "s5"), ("to first token", "s1"), ("to last token", "s0"), ("not ok", "bad")]
    return chart.svg(y_ticks=False)


def _request_bar(chart: Chart, table: RequestTable, index: int, rows: tuple[float, float]) -> None:
    moments = (table.scheduled_ms[index], table.sent_ms[index], table.first_ms[index], table.last_ms[index])
    scheduled, sent, first, last = (chart.x(moment / 1000) for moment in moments)
    tip = _told(table, index)
    if moments[2] >= 0:
        since = (number(moments[2] - moments[1]), number(moments[3] - moments[1]))
        tip += f", first token after {since[0]} ms, last after {since[1]} ms"
    if sent > scheduled:
        chart.rect((scheduled, sent), rows, "fill s5", tip, group=0)
    if table.outcome[index] != "ok":
        chart.rect((sent, max(last, sent + 3)), rows, "fill bad", tip, group=3)
        return
    chart.rect((sent, first), rows, "fill s1", tip, group=1)
    chart.rect((first, last), rows, "fill s0", tip, group=2)


def _told(table: RequestTable, index: int) -> str:
    told = f"request {index}: {table.outcome[index]}, {table.output_tokens[index]} tokens"
    return f"{told}, sent at {number(table.sent_ms[index])} ms"


def _latencies(table: RequestTable, key: str, axis: str, span_s: float) -> str:
    """A latency of each successful request over the time at which it was sent; empty without any."""
    of_request: Callable[[RequestTable, int], float | None] = {"ttft": _ttft_ms, "tpot": _tpot_ms}[key]
    rows = [(index, value) for index in range(len(table.sent_ms)) if (value := of_request(table, index)) is not None]
    if not rows:
        return ""
    kept = _spread(rows, _DOTS)
    metric = BY_KEY[key]
    title = f"{metric.title}, by the moment of sending{_share(len(kept), len(rows))}"
    chart = _strip(title, metric.unit, axis, span_s, max(value for _, value in kept))
    for index, value in kept:
        tip = f"{number(value)} {metric.unit} ({_told(table, index)})"
        chart.dot(chart.x(table.sent_ms[index] / 1000), chart.y(value), "s1" if key == "ttft" else "s0", tip)
    return chart.svg()


def _ttft_ms(table: RequestTable, index: int) -> float | None:
    is_ok = table.outcome[index] == "ok" and table.first_ms[index] >= 0
    return table.first_ms[index] - table.sent_ms[index] if is_ok else None


def _tpot_ms(table: RequestTable, index: int) -> float | None:
    tokens = table.output_tokens[index]
    if table.outcome[index] != "ok" or tokens < 2 or not table.last_ms[index] > table.first_ms[index]:
        return None
    return (table.last_ms[index] - table.first_ms[index]) / (tokens - 1)


def _panel(title: str, metrics: Sequence[ServerMetric], server: ServerSeries, axis: str, span_s: float) -> str:
    """Some series that the endpoint told, each as a line that is broken where it told nothing."""
    unit = metrics[0].unit
    known = [value for metric in metrics for value in server.values[metric.key] if value is not None]
    # The whole of what there is, unless hardly any of it is in use.
    top = 100.0 / 1.15 if unit == _PER_CENT and max(known) > _MUCH else max(known)
    chart = _strip(f"{title}, as it tells", unit, axis, span_s, top)
    for group, metric in enumerate(metrics):
        css = series(group + 2)
        told = zip(server.at_ms, server.values[metric.key], strict=True)
        places = [(chart.x(at / 1000), None if value is None else chart.y(value)) for at, value in told]
        for is_known, piece in groupby(places, key=lambda place: place[1] is not None):
            if is_known:
                _piece(chart, [(x, y) for x, y in piece if y is not None], css, group)
        chart.legend.append((metric.title, css))
    return chart.svg()


def _piece(chart: Chart, points: list[tuple[float, float]], css: str, group: int) -> None:
    """A line; where a single sample stands alone, as wide as a dot."""
    if len(points) == 1:
        points = [*points, (points[0][0] + 3, points[0][1])]
    chart.line(points, css, group=group, has_values=True)


def _strip(title: str, unit: str, axis: str, span_s: float, top: float) -> Chart:
    chart = Chart(title, "seconds", unit, width=_WIDTH, height=190, axis=axis)
    chart.set_x(0, span_s)
    chart.set_y(0, top * 1.15 or 1.0)
    return chart


def _spread(rows: Sequence[_Row], most: int) -> Sequence[_Row]:
    """At most so many of the rows, evenly spread."""
    return rows if len(rows) <= most else [rows[int(i)] for i in np.linspace(0, len(rows) - 1, most)]


def _share(kept: int, count: int) -> str:
    return f" ({kept} of {count})" if kept < count else ""
