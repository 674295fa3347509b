"""Result tables as plain cells, and their rendering for terminals and Markdown. Measures and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import ROUNDED
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.metrics.catalog import BY_KEY
from bench.metrics.stats import needed_count, ratio_interval
from bench.report.results import Point, RunResult, figure, over_repeats
from bench.report.samples import MARK, RULE, count_text, mark, measured_lengths, notes

PIPE_WIDTH = 160
"""Columns when the output is not a terminal: tables in a log are scrolled, not wrapped."""

DEFAULT_METRICS = ("ttft", "ttst", "tpot", "itl", "request_latency", "output_tps_per_user", "client_queue_time")
DEFAULT_STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
_TOTALS = ("output_tps", "total_tps", "request_tps", "goodput", "goodput_share", "concurrency", "duration")


def report_console() -> Console:
    """Standard output, as wide as the terminal, or wide enough for every table when there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text. The first column and those in ``left`` are text, the others are numbers. ``note`` stands below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: tuple[str, ...] = ()
    note: str = ""

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=Text(self.title), title_justify="left", title_style="bold", box=ROUNDED)
        table.caption, table.caption_justify = (Text(self.note) if self.note else None), "left"
        for number, column in enumerate(self.columns):
            # Names are wrapped and never cut: the end of a load's name is what tells it from the others.
            is_text = number == 0 or column in self.left
            table.add_column(Text(column), justify="left" if is_text else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For a README."""
        aligns = ["---" if column in (self.columns[0], *self.left) else "---:" for column in self.columns]
        lines = [f"**{self.title}**", ""]
        lines += [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
            for cells in (self.columns, aligns, *self.rows)
        ]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


def machine_line(environment: dict[str, str]) -> str:
    """The machine and version block in one sentence."""
    block = environment
    machine = f"{block['cpu']}, {block['cores']} cores, {block['memory_gib']} GiB, {block['system']}, {block['python']}"
    return f"Measured on {machine}, powertrain {block['powertrain']}."


def number(value: float | None) -> str:
    """Four significant digits without exponents, so that columns compare at a glance."""
    if value is None:
        return "-"
    magnitude = abs(value)
    digits = 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2 if magnitude >= 1 else 3
    return f"{value:,.{digits}f}"


def latency_table(
    point: Point, metrics: Sequence[str] = DEFAULT_METRICS, statistics: Sequence[str] = DEFAULT_STATISTICS
) -> Table:
    """One load: a row per metric, a column per statistic (means over the repeats) and the size of the sample."""
    rows, shown = [], []
    for key in metrics:
        names = [f"{key}.{statistic}" for statistic in statistics]
        values = [over_repeats(point, name)[0] for name in names]
        if any(value is not None for value in values):
            shown += names
            cells = (number(value) + mark([point], name) for name, value in zip(names, values, strict=True))
            rows.append((f"{BY_KEY[key].title} [{BY_KEY[key].unit}]", *cells, count_text(point, key)))
    columns = ("metric", *statistics, "values")
    return Table(f"{point.target} · {point.load}", columns, tuple(rows), note=notes([point], shown))


def totals_table(point: Point) -> Table:
    """One load: throughput and counts, with the 95 % interval over repeats where there are several."""
    rows = []
    for key in _TOTALS:
        mean, interval = over_repeats(point, key)
        if mean is not None:
            text = number(mean)
            if interval is not None:
                text += f" (95 %: {number(interval.low)} to {number(interval.high)})"
            rows.append((f"{BY_KEY[key].title} [{BY_KEY[key].unit}]", text))
    rows.append(("Requests", _outcomes(point.runs)))
    for title, asked, key in (("Prompt", point.isl, "input_tokens"), ("Answer", point.osl, "output_tokens")):
        measured = measured_lengths(point, key)
        rows.append((f"{title} length [tok]", f"{measured}, asked {asked}" if asked else measured))
    return Table("Totals", ("figure", "value"), tuple(rows))


def _outcomes(runs: Sequence[RunResult]) -> str:
    counts: dict[str, int] = {}
    for run in runs:
        for outcome, count in run.measurement.outcomes.items():
            counts[outcome] = counts.get(outcome, 0) + count
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "none"


def sweep_table(points: Sequence[Point]) -> Table:
    """One row per load and target: the figures that sweeps and comparisons are read by."""
    figures = [
        ("TTFT p50 [ms]", "ttft.p50"),
        ("TTFT p99 [ms]", "ttft.p99"),
        ("TPOT p50 [ms]", "tpot.p50"),
        ("ITL p99 [ms]", "itl.p99"),
        ("E2EL p50 [ms]", "request_latency.p50"),
        ("tok/s", "output_tps"),
        ("tok/s/user", "output_tps_per_user.p50"),
        ("req/s", "request_tps"),
    ]
    goodput = any("goodput_share" in run.measurement.totals for point in points for run in point.runs)
    if goodput:
        figures.append(("goodput %", "goodput_share"))
    several = len({point.target for point in points}) > 1
    rows = []
    for point in points:
        name = f"{point.target} · {point.load}" if several else point.load
        bad = sum(run.measurement.outcomes["failed"] + run.measurement.outcomes["unfinished"] for run in point.runs)
        cells = (number(over_repeats(point, key)[0]) + mark([point], key) for _, key in figures)
        lengths = (measured_lengths(point, key) for key in ("input_tokens", "output_tokens"))
        rows.append((name, *lengths, count_text(point, "output_tokens"), *cells, str(bad)))
    columns = ("load", "ISL", "OSL", "requests", *(title for title, _ in figures), "failed")
    return Table("Loads", columns, tuple(rows), note=notes(points, (key for _, key in figures)))


def checks_table(point: Point) -> Table:
    """Every honesty check of the last repeat, with its verdict."""
    verdicts = {True: "ok", False: "TAINTED", None: "not checked"}
    rows = []
    for check in point.runs[-1].checks:
        value = "-" if check.value is None else f"{number(check.value)}{check.unit and ' ' + check.unit}"
        limit = "-" if check.limit is None else f"{number(check.limit)}{check.unit and ' ' + check.unit}"
        rows.append((check.title, verdicts[check.ok], value, limit, check.detail))
    return Table("Honesty checks", ("check", "verdict", "value", "limit", "detail"), tuple(rows), ("verdict", "detail"))


def stalls_table(point: Point) -> Table | None:
    """How probes stalled the streams beside them; None when the load had no probes."""
    report = point.runs[-1].stalls
    if report is None:
        return None
    sizes = (report.during_count, report.outside_count)  # 0 in results of older versions
    p95 = (report.during_p95_ms, report.outside_p95_ms)
    signs = tuple(MARK if 0 < size < needed_count("p95") else "" for size in sizes)
    note = f"p95{MARK}: needs >= {needed_count('p95')} gaps. {RULE}" if any(signs) else ""
    rows = (
        ("gaps", *(str(size or "-") for size in sizes)),
        ("gap p50 [ms]", number(report.during_p50_ms), number(report.outside_p50_ms)),
        ("gap p95 [ms]", *(number(value) + sign for value, sign in zip(p95, signs, strict=True))),
        ("gap max [ms]", number(report.during_max_ms), "-"),
        ("p95 during / outside", number(report.p95_ratio), "1"),
        (f"probe TTFT p50 [ms] ({report.num_probes} probes)", number(report.probe_ttft_ms), "-"),
    )
    return Table("Stalls by long prefills", ("chunk gaps of running streams", "during", "outside"), rows, note=note)


def compare_table(points: Sequence[Point]) -> Table | None:
    """Each target against the first, as paired ratios over the rounds; None for a single target."""
    targets = list(dict.fromkeys(point.target for point in points))
    if len(targets) < 2:
        return None
    rows = []
    for base in (point for point in points if point.target == targets[0]):
        for other in (point for point in points if point.load == base.load and point.target != base.target):
            cells = [_ratio(other, base, name) for _, name in _COMPARED]
            sizes = [count_text(point, "output_tokens") for point in (other, base)]
            rows.append((f"{other.target} / {base.target} · {base.load}", " / ".join(sizes), *cells))
    columns = ("pair", "requests", *(title for title, _ in _COMPARED))
    note = notes(points, (name for _, name in _COMPARED))
    return Table("Ratios (95 % interval over rounds)", columns, tuple(rows), note=note)


_COMPARED = (
    ("TTFT p50", "ttft.p50"),
    ("TPOT p50", "tpot.p50"),
    ("ITL p99", "itl.p99"),
    ("E2EL p50", "request_latency.p50"),
    ("tok/s", "output_tps"),
)


def _ratio(other: Point, base: Point, name: str) -> str:
    pairs = [
        (a, b)
        for run, reference in zip(other.runs, base.runs, strict=False)
        if (a := figure(run, name)) is not None and (b := figure(reference, name)) is not None
    ]
    if not pairs or any(b <= 0 for _, b in pairs):
        return "-"
    sign = mark([other, base], name)
    interval = ratio_interval([a for a, _ in pairs], [b for _, b in pairs])
    if interval is None:
        return f"{pairs[0][0] / pairs[0][1]:.2f}x{sign}"
    return f"{interval.centre:.2f}x{sign} ({interval.low:.2f} to {interval.high:.2f})"
