"""How much stands behind a figure: sizes of samples, percentiles that a sample is too small for, lengths of texts.

Text for tables and charts. Draws and lays out nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.metrics.catalog import BY_KEY, Scope
from bench.metrics.stats import needed_count
from bench.report.results import Point, over_repeats

MARK = "*"
RULE = (
    "A percentile p needs at least 1/(1 - p) values; one that is marked with * has fewer and is little more than the "
    "largest of them."
)


def counts(point: Point, key: str) -> list[int]:
    """Values of a metric in each repeat; a repeat without any is left out."""
    found = (run.measurement.distributions.get(key) for run in point.runs)
    return [sample.count for sample in found if sample is not None]


def count_text(point: Point, key: str) -> str:
    """``24``, over equal repeats ``3 x 24``, over unequal ones ``20 + 24``; ``-`` without any."""
    sizes = counts(point, key)
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} x {sizes[0]}"
    return " + ".join(map(str, sizes)) or "-"


def is_short(point: Point, name: str) -> bool:
    """Whether a figure such as ``ttft.p99`` is a percentile that some repeat has too few values for."""
    key, _, statistic = name.partition(".")
    return any(size < needed_count(statistic) for size in counts(point, key))


def mark(points: Sequence[Point], name: str) -> str:
    """``*`` where one of the points has too few values for a figure, else nothing."""
    return MARK if any(is_short(point, name) for point in points) else ""


def notes(points: Sequence[Point], names: Iterable[str]) -> str:
    """What the marks beside these figures mean: ``p99*: 24 requests, needs >= 100``, and the rule; empty without."""
    fewest: dict[tuple[str, str], list[int]] = {}
    for name in names:
        key, _, statistic = name.partition(".")
        for point in points:
            if is_short(point, name):
                fewest.setdefault((statistic, noun(key)), []).extend(counts(point, key))
    parts = []
    for (statistic, values), sizes in fewest.items():
        short = [size for size in sizes if size < needed_count(statistic)]
        span = str(min(short)) if min(short) == max(short) else f"{min(short)} to {max(short)}"
        parts.append(f"{statistic}{MARK}: {span} {values}, needs >= {needed_count(statistic):,}")
    return f"{'; '.join(parts)}. {RULE}" if parts else ""


def noun(key: str) -> str:
    """What a metric has one value of."""
    return "gaps" if BY_KEY[key].scope is Scope.POOLED else "requests"


def measured_lengths(point: Point, key: str) -> str:
    """Tokens of the requests of all repeats, by ``input_tokens`` or ``output_tokens``: ``139``, ``139 (64 to 256)``."""
    found = [sample for run in point.runs if (sample := run.measurement.distributions.get(key)) is not None]
    if not found:
        return "-"
    low, high = min(sample.min for sample in found), max(sample.max for sample in found)
    mean_text = f"{over_repeats(point, f'{key}.mean')[0] or 0.0:,.1f}".removesuffix(".0")
    return mean_text if low == high else f"{mean_text} ({low:,.0f} to {high:,.0f})"


def lengths_of_all(points: Sequence[Point]) -> str:
    """The same of several loads in one line: ``ISL 128 asked, 139 to 141 measured`` are means of the loads."""
    parts = []
    for short, asked, key in (("ISL", "isl", "input_tokens"), ("OSL", "osl", "output_tokens")):
        wanted = ", ".join(dict.fromkeys(text for point in points if (text := getattr(point, asked))))
        means = [mean for point in points if (mean := over_repeats(point, f"{key}.mean")[0]) is not None]
        low, high = (f"{bound:,.1f}".removesuffix(".0") for bound in (min(means, default=0), max(means, default=0)))
        measured = f"{low if low == high else f'{low} to {high}'} measured" if means else "none measured"
        parts.append(f"{short} {wanted} asked, {measured}" if wanted else f"{short} {measured}")
    sizes = [sum(counts(point, "output_tokens")) for point in points]
    span = str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return f"{' · '.join(parts)} · {span} requests in each of {len(points)} loads"


def lengths_line(point: Point) -> str:
    """``ISL 128 asked, 139 measured · OSL 64 asked, 64 measured · 24 requests``: what a load was made of."""
    parts = []
    for short, asked, key in (("ISL", point.isl, "input_tokens"), ("OSL", point.osl, "output_tokens")):
        measured = measured_lengths(point, key)
        parts.append(f"{short} {asked} asked, {measured} measured" if asked else f"{short} {measured} measured")
    return f"{' · '.join(parts)} · {count_text(point, 'output_tokens')} requests"
