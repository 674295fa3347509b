"""PNG and SVG files of a report through matplotlib, which is optional. Draws what the HTML report draws, for papers.

Knows reports only; imports matplotlib when called, so that measuring never pays for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runtime.install import install_line

from bench.errors import BenchError
from bench.metrics.catalog import BY_KEY
from bench.report.results import Point, Report, over_repeats

_CHARTED = ("ttft", "tpot", "itl", "request_latency")


def write_plots(report: Report, folder: Path) -> list[Path]:
    """Write ``distributions`` and, for a sweep, ``sweep`` as PNG and SVG. BenchError without matplotlib."""
    try:
        figure_type: Any = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        install = install_line("plots", "matplotlib")
        raise BenchError(f"plots need matplotlib: {install}; HTML reports need nothing") from error
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"distributions": _distributions(figure_type, report.points)}
    if len(report.points) > 1:
        drawn["sweep"] = _sweep(figure_type, report.points)
    written = []
    for name, figure in drawn.items():
        figure.suptitle(report.title, fontsize=12, x=0.02, ha="left")
        for kind in ("png", "svg"):
            path = folder / f"{name}.{kind}"
            figure.savefig(path, dpi=150)
            written.append(path)
    return written


def _distributions(figure_type: Any, points: Sequence[Point]) -> Any:  # noqa: ANN401 - matplotlib is optional
    """Cumulative distributions, one line per load and target."""
    figure = figure_type(figsize=(10, 7), layout="constrained")
    for axes, key in zip(figure.subplots(2, 2).flat, _CHARTED, strict=True):
        metric = BY_KEY[key]
        for point in points:
            sample = point.runs[-1].measurement.distributions.get(key)
            if sample is not None and len(sample.curve) > 1:
                shares = np.linspace(0, 100, len(sample.curve))
                axes.plot(sample.curve, shares, label=f"{point.target} · {point.load}")
        axes.set(title=metric.title, xlabel=metric.unit, ylabel="% of values at or below")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _sweep(figure_type: Any, points: Sequence[Point]) -> Any:  # noqa: ANN401 - matplotlib is optional
    """Throughput against speed per user, and latency against throughput, one line per target."""
    pairs = (
        ("output_tps_per_user.p50", "output_tps", "output tok/s per user (p50)", "output tok/s"),
        ("output_tps", "ttft.p50", "output tok/s", "time to first token, p50 [ms]"),
        ("output_tps", "tpot.p50", "output tok/s", "time per output token, p50 [ms]"),
    )
    figure = figure_type(figsize=(13, 4.2), layout="constrained")
    for axes, (x_name, y_name, x_title, y_title) in zip(figure.subplots(1, 3).flat, pairs, strict=True):
        for target in dict.fromkeys(point.target for point in points):
            own = [point for point in points if point.target == target]
            xs, ys = ([over_repeats(point, name)[0] for point in own] for name in (x_name, y_name))
            axes.plot(xs, ys, marker="o", label=target)
            for x, y, point in zip(xs, ys, own, strict=True):
                if x is not None and y is not None:
                    axes.annotate(point.load, (x, y), (5, 5), textcoords="offset points")
        axes.margins(0.12)
        axes.set(xlabel=x_title, ylabel=y_title, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9, frameon=False)
    return figure
