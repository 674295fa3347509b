"""The report's charts: results in, SVG out. Draws what ``bench.report.results`` holds and computes no metric itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.metrics.catalog import BY_KEY
from bench.metrics.stats import Distribution, needed_count
from bench.report.results import Point, over_repeats
from bench.report.samples import MARK, is_short, mark, noun
from bench.report.svg import Chart, series, text_width
from bench.report.tables import number

_BINS = 36
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
        sign = MARK if sample.count < needed_count(name) else ""
        chart.marker(sample.percentiles[name], f"{name}{sign} {number(sample.percentiles[name])}", row)
    beyond = f", max {number(sample.max)}" if sample.max > high else ""
    chart.caption(chart.x.end, 28, f"{sample.count:,} {noun(key)}{beyond}")
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
        sign = MARK if sample.count < needed_count("p99") else ""
        tip = f"{name}: p50 {number(sample.median)}, p99{sign} {number(sample.at('p99'))}, {sample.count} {noun(key)}"
        chart.line(path, series(index), tip, group=index, has_values=True)
        chart.legend.append((name, series(index)))
    return chart.svg()


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
    sign = mark(points, f"{key}.p99")
    chart = Chart(f"{metric.title} under load: p50, dashed p99{sign}", "output tok/s", metric.unit)
    middle, tail = (_sweep(points, ("output_tps", f"{key}.{name}")) for name in ("p50", "p99"))
    if not middle:
        return ""
    heights = [values[1] for _, _, values in middle + tail]
    log = min(heights) > 0 and max(heights) / min(heights) > _LOG_FROM_RATIO
    chart.set_x(0, max(values[0] for _, _, values in middle) * 1.1)
    chart.set_y(min(heights) * 0.8 if log else 0.0, max(heights) * 1.15, log=log)
    _sweep_lines(chart, tail, f"p99{sign}", dashed=True)
    _sweep_lines(chart, middle, "p50")
    return chart.svg()


def comparison(points: Sequence[Point], key: str, title: str) -> str:
    """Bars of one figure for each target and load, with the 95 % interval over repeats."""
    values = [(point, *over_repeats(point, key)) for point in points]
    known = [(point, mean, interval) for point, mean, interval in values if mean is not None]
    if not known:
        return ""
    targets = list(dict.fromkeys(point.target for point in points))
    loads = list(dict.fromkeys(point.load for point in points))
    longest = max(map(text_width, loads))
    is_tight = longest > (Chart("", "", "").width - 70) / len(loads)
    # Names that would run into each other are turned, and get the height that they need.
    room = 42 + (round(longest * 0.6) if is_tight else 0)
    chart = Chart(title, "", "", height=218 + room, bottom=room, fixed=True)
    chart.set_x(0, len(loads))
    top = max(interval.high if interval is not None else mean for _, mean, interval in known)
    chart.set_y(0, max(top, *(mean for _, mean, _ in known)) * 1.15)
    width = (chart.x(1) - chart.x(0)) / (len(targets) + 1)
    for point, mean, interval in known:
        group = targets.index(point.target)
        side = chart.x(loads.index(point.load)) + width * (group + 0.5)
        tip = f"{point.target}, {point.load}: {number(mean)}{MARK if is_short(point, key) else ''}"
        if interval is not None:
            tip += f" (95 %: {number(interval.low)} to {number(interval.high)})"
        xs, ys = (side + 2, side + width - 2), (chart.y(0), chart.y(mean))
        chart.rect(xs, ys, f"fill {series(group)}", tip, group=group)
        chart.text(side + width / 2, chart.y(mean) - 5, number(mean), anchor="middle", group=group)
        if interval is not None:
            middle = side + width / 2
            ends = [(middle, chart.y(max(interval.low, 0.0))), (middle, chart.y(interval.high))]
            chart.line(ends, "whisker", tip, group=group)
    for index, load in enumerate(loads):
        anchor, turn = ("end", -35) if is_tight else ("middle", 0)
        chart.caption(chart.x(index + 0.5), chart.y.start + 14, load, anchor=anchor, css="tick", turn=turn)
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


def _sweep_lines(
    chart: Chart, rows: list[tuple[str, str, tuple[float, float]]], statistic: str = "", *, dashed: bool = False
) -> None:
    for index, target in enumerate(dict.fromkeys(row[0] for row in rows)):
        css = series(index)
        own = [(load, values) for name, load, values in rows if name == target]
        chart.line([(chart.x(a), chart.y(b)) for _, (a, b) in own], css + (" dashed" if dashed else ""), group=index)
        for load, (a, b) in own:
            x, y = chart.x(a), chart.y(b)
            named = f"{target}, {load}{statistic and ', ' + statistic}"
            tip = f"{named}: {number(b)} {chart.y_title} at {number(a)} {chart.x_title}"
            chart.dot(x, y, css, tip, group=index)
            if not dashed:
                chart.name(x, y, load, group=index)
        if not dashed:
            chart.legend.append((target, css))
