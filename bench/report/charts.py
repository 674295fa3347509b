"""The report's charts: results in, SVG out. Draws what ``bench.report.results`` holds and computes no metric itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.metrics.catalog import BY_KEY
from bench.metrics.stats import Distribution
from bench.report.results import Point, over_repeats
from bench.report.svg import Chart, series
from bench.report.tables import number

_BINS = 36
_TIMELINE_ROWS = 300
_LOG_FROM_RATIO = 30.0


def histogram(key: str, sample: Distribution) -> str:
    """Share of values per bin up to just above p99; what lies beyond is named, not drawn."""
    metric = BY_KEY[key]
    curve = np.asarray(sample.curve)
    low, high = float(curve[0]), max(float(sample.percentiles["p99"]) * 1.02, float(curve[0]) * 1.001 + 1e-6)
    shares, edges = np.histogram(curve[curve <= high], bins=_BINS, range=(low, high))
    heights = 100.0 * shares / curve.size
    chart = Chart(metric.title, metric.unit, "% of values")
    chart.set_x(low, high)
    chart.set_y(0, float(heights.max()) * 1.25 or 1.0)
    for height, left, right in zip(heights, edges[:-1], edges[1:], strict=True):
        tip = f"{number(left)} to {number(right)} {metric.unit}: {height:.1f} %"
        chart.rect((chart.x(left) + 0.5, chart.x(right) - 0.5), (chart.y(0), chart.y(height)), "fill s0", tip)
    for row, name in enumerate(("p50", "p95", "p99")):
        chart.marker(sample.percentiles[name], f"{name} {number(sample.percentiles[name])}", row)
    if sample.max > high:
        chart.text(chart.x.end, 28, f"max {number(sample.max)}", anchor="end")
    return chart.svg()


def ecdf(key: str, points: Sequence[Point]) -> str:
    """Cumulative share of values at or below x, one line per load and target (last repeat)."""
    metric = BY_KEY[key]
    samples = [
        (_name(point, points), found)
        for point in points
        if (found := point.runs[-1].measurement.distributions.get(key)) is not None
    ]
    if not samples:
        return ""
    low = min(sample.min for _, sample in samples)
    high = max(sample.max for _, sample in samples)
    chart = Chart(f"{metric.title}, cumulative", metric.unit, "% of values at or below")
    chart.set_x(low if low > 0 else 0.0, max(high, low + 1e-6), log=low > 0 and high / low > _LOG_FROM_RATIO)
    chart.set_y(0, 100)
    for index, (name, sample) in enumerate(samples):
        shares = np.linspace(0, 100, len(sample.curve)) if len(sample.curve) > 1 else np.array([100.0])
        path = [(chart.x(value), chart.y(share)) for value, share in zip(sample.curve, shares, strict=True)]
        chart.line(path, series(index), f"{name}: p50 {number(sample.median)}, p99 {number(sample.at('p99'))}")
        chart.legend.append((name, series(index)))
    return chart.svg()


def timeline(point: Point) -> str:
    """Each request of the last repeat as a bar: waiting in the client, until the first token, until the last."""
    table = point.runs[-1].requests
    count = len(table.sent_ms)
    if count == 0:
        return ""
    order = sorted(range(count), key=lambda index: table.sent_ms[index])
    kept = order if count <= _TIMELINE_ROWS else [order[int(i)] for i in np.linspace(0, count - 1, _TIMELINE_ROWS)]
    end_ms = max(*table.last_ms, *table.sent_ms, 1.0)
    height = max(200, min(640, 90 + 7 * len(kept)))
    title = "Requests in time" + (f" ({len(kept)} of {count})" if len(kept) < count else "")
    chart = Chart(title, "seconds", "requests by start", width=1060, height=height)
    chart.set_x(0, end_ms / 1000)
    chart.set_y(len(kept), 0)
    pitch = (chart.y.start - chart.y.end) / len(kept)
    for row, index in enumerate(kept):
        top = chart.y.end + row * pitch + pitch * 0.12
        _request_bar(chart, point, index, top, top + pitch * 0.76)
    chart.legend = [("client queue", "s5"), ("to first token", "s1"), ("to last token", "s0"), ("not ok", "bad")]
    return chart.svg(y_ticks=False)


def _request_bar(chart: Chart, point: Point, index: int, top: float, bottom: float) -> None:
    table = point.runs[-1].requests
    moments = (table.scheduled_ms[index], table.sent_ms[index], table.first_ms[index], table.last_ms[index])
    scheduled, sent, first, last = (chart.x(moment / 1000) for moment in moments)
    tip = (
        f"request {index}: {table.outcome[index]}, {table.output_tokens[index]} tokens, sent at {number(moments[1])} ms"
    )
    if moments[2] >= 0:
        tip += (
            f", first token after {number(moments[2] - moments[1])} ms, last after {number(moments[3] - moments[1])} ms"
        )
    rows = (top, bottom)
    chart.rect((scheduled, sent), rows, "fill s5", tip)
    if table.outcome[index] != "ok":
        chart.rect((sent, max(last, sent + 3)), rows, "fill bad", tip)
        return
    chart.rect((sent, first), rows, "fill s1", tip)
    chart.rect((first, last), rows, "fill s0", tip)


def throughput_over_latency(points: Sequence[Point]) -> str:
    """A sweep's trade-off: output throughput of the whole endpoint against speed per user; up and right is better."""
    chart = Chart("Throughput against speed per user", "output tok/s per user (p50)", "output tok/s")
    rows = _sweep(points, ("output_tps_per_user.p50", "output_tps"))
    if not rows:
        return ""
    chart.set_x(0, max(values[0] for _, _, values in rows) * 1.1)
    chart.set_y(0, max(values[1] for _, _, values in rows) * 1.15)
    _sweep_lines(chart, rows)
    return chart.svg()


def latency_over_load(points: Sequence[Point], key: str) -> str:
    """p50 (line) and p99 (dashed) of a metric against output throughput, one colour per target."""
    metric = BY_KEY[key]
    chart = Chart(f"{metric.title} under load: p50, dashed p99", "output tok/s", metric.unit)
    middle, tail = (_sweep(points, ("output_tps", f"{key}.{name}")) for name in ("p50", "p99"))
    if not middle:
        return ""
    heights = [values[1] for _, _, values in middle + tail]
    log = min(heights) > 0 and max(heights) / min(heights) > _LOG_FROM_RATIO
    chart.set_x(0, max(values[0] for _, _, values in middle) * 1.1)
    chart.set_y(min(heights) * 0.8 if log else 0.0, max(heights) * 1.15, log=log)
    _sweep_lines(chart, tail, dashed=True)
    _sweep_lines(chart, middle)
    return chart.svg()


def comparison(points: Sequence[Point], key: str, title: str) -> str:
    """Bars of one figure for each target and load, with the 95 % interval over repeats."""
    values = [(point, *over_repeats(point, key)) for point in points]
    known = [(point, mean, interval) for point, mean, interval in values if mean is not None]
    if not known:
        return ""
    targets = list(dict.fromkeys(point.target for point in points))
    loads = list(dict.fromkeys(point.load for point in points))
    chart = Chart(title, "", "")
    chart.set_x(0, len(loads))
    top = max(interval.high if interval is not None else mean for _, mean, interval in known)
    chart.set_y(0, max(top, *(mean for _, mean, _ in known)) * 1.15)
    width = (chart.x(1) - chart.x(0)) / (len(targets) + 1)
    for point, mean, interval in known:
        side = chart.x(loads.index(point.load)) + width * (targets.index(point.target) + 0.5)
        css = series(targets.index(point.target))
        tip = f"{point.target}, {point.load}: {number(mean)}"
        chart.rect((side + 2, side + width - 2), (chart.y(0), chart.y(mean)), f"fill {css}", tip)
        chart.text(side + width / 2, chart.y(mean) - 5, number(mean), anchor="middle")
        if interval is not None:
            middle = side + width / 2
            chart.line([(middle, chart.y(max(interval.low, 0.0))), (middle, chart.y(interval.high))], "whisker", tip)
    for index, load in enumerate(loads):
        chart.text(chart.x(index + 0.5), chart.y.start + 14, load, anchor="middle", css="tick")
    chart.legend = [(target, series(index)) for index, target in enumerate(targets)]
    return chart.svg(x_ticks=False)


def _name(point: Point, points: Sequence[Point]) -> str:
    several = len({other.target for other in points}) > 1
    return f"{point.target} · {point.load}" if several else point.load


def _sweep(points: Sequence[Point], names: tuple[str, str]) -> list[tuple[str, str, tuple[float, float]]]:
    rows = []
    for point in points:
        first, second = (over_repeats(point, name)[0] for name in names)
        if first is not None and second is not None:
            rows.append((point.target, point.load, (first, second)))
    return rows


def _sweep_lines(chart: Chart, rows: list[tuple[str, str, tuple[float, float]]], *, dashed: bool = False) -> None:
    for index, target in enumerate(dict.fromkeys(row[0] for row in rows)):
        css = series(index)
        own = [(load, values) for name, load, values in rows if name == target]
        chart.line([(chart.x(a), chart.y(b)) for _, (a, b) in own], css + (" dashed" if dashed else ""))
        for load, (a, b) in own:
            chart.dot(chart.x(a), chart.y(b), css, f"{target}, {load}: {number(a)}, {number(b)}")
            if not dashed:
                chart.text(chart.x(a) + 7, chart.y(b) - 6, load.removeprefix("concurrency "))
        if not dashed:
            chart.legend.append((target, css))
