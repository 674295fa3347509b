"""The engine bench's result: schema, tables, and the verdict against a baseline. Measures nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from bench.errors import BenchError, unreadable
from bench.in_process.schema_report import SchemaCost
from bench.metrics.stats import Interval, bootstrap_median_ratio
from bench.report.tables import Table, number

SCHEMA = "powertrain-bench-engine"
SCHEMA_VERSION = 1


class SpeedTest(msgspec.Struct, frozen=True):
    """One test in llama-bench's terms: ``pp512`` prefill, ``tg64`` decode, ``@d512`` at that context depth.

    ``samples`` are tokens/s, one per repetition; ``step_ms`` the median call in ms. ``bandwidth_share`` is bytes of
    weights and cache per step / step time / read bandwidth, for decoding at batch 1.
    """

    name: str
    batch: int
    depth: int
    tokens: int
    samples: list[float]
    step_ms: float
    bandwidth_share: float | None = None

    @property
    def median_tps(self) -> float:
        """Median tokens per second."""
        return float(np.median(self.samples))


class Breakdown(msgspec.Struct, frozen=True):
    """Where a decode step of the whole engine goes: medians in us over ``num_steps`` full steps of ``batch`` rows.

    ``deliver`` hands the step's events to an event loop on another thread. ``overhead`` is all but ``run``.
    """

    batch: int
    sampling: str
    num_steps: int
    parts_us: dict[str, float]
    overhead_us: float
    total_us: float


class EngineReport(msgspec.Struct, frozen=True):
    """One run of the engine bench. Bytes are bytes; ``read_bandwidth`` is bytes/s with the session's threads."""

    schema: str
    schema_version: int
    model: str
    graph_sha256: str
    threads: int
    weight_bytes: int
    kv_bytes_per_token: int
    peak_rss_bytes: int
    load_s: float
    read_bandwidth: float
    speeds: list[SpeedTest]
    breakdowns: list[Breakdown]
    environment: dict[str, str]
    schema_costs: list[SchemaCost] = []


class Verdict(msgspec.Struct, frozen=True):
    """One test against the baseline: new speed / old speed with its 95 % interval."""

    name: str
    ratio: Interval
    word: str


def speed_table(report: EngineReport) -> Table:
    """Prefill and decode speeds."""
    rows = []
    for test in report.speeds:
        low, high = np.percentile(test.samples, (25, 75))
        share = "-" if test.bandwidth_share is None else f"{100 * test.bandwidth_share:.0f} %"
        cells = (number(test.median_tps), f"{number(low)} to {number(high)}", number(test.step_ms), share)
        rows.append((test.name, *cells))
    title = f"{report.model}, {report.threads} threads"
    return Table(title, ("test", "tok/s", "quartiles", "call [ms]", "of bandwidth"), tuple(rows))


def breakdown_table(report: EngineReport) -> Table:
    """Each part of a decode step in milliseconds."""
    names = list(dict.fromkeys(name for row in report.breakdowns for name in row.parts_us))
    rows = tuple(
        (
            f"b{row.batch} {row.sampling}",
            *(f"{us / 1e3:.3f}" for us in (*row.parts_us.values(), row.overhead_us, row.total_us)),
        )
        for row in report.breakdowns
    )
    return Table(
        "Decode step of the whole engine, median ms (overhead: all but run)",
        ("step", *names, "overhead", "total"),
        rows,
    )


def memory_table(report: EngineReport) -> Table:
    """Memory, loading and the machine's limit."""
    rows = (
        ("weights read per decode step", f"{report.weight_bytes / 2**20:,.1f} MiB"),
        ("kv cache per token", f"{report.kv_bytes_per_token / 2**10:,.1f} KiB"),
        ("peak resident memory", f"{report.peak_rss_bytes / 2**20:,.0f} MiB"),
        ("load and warm up", f"{report.load_s:.2f} s"),
        ("read bandwidth", f"{report.read_bandwidth / 1e9:.1f} GB/s"),
    )
    return Table("Memory", ("figure", "value"), rows)


def judge(new: EngineReport, old: EngineReport, threshold_percent: float) -> list[Verdict]:
    """Every test that both reports hold, against the old one. BenchError when they share none.

    ``slower`` only when the whole 95 % interval of the ratio of medians (bootstrap over repetitions) lies more than
    ``threshold_percent`` below 1; ``faster`` likewise above.
    """
    before = {test.name: test for test in old.speeds}
    margin = threshold_percent / 100.0
    verdicts = []
    for test in new.speeds:
        if test.name not in before:
            continue
        ratio = bootstrap_median_ratio(np.asarray(test.samples), np.asarray(before[test.name].samples))
        word = "slower" if ratio.high < 1 - margin else "faster" if ratio.low > 1 + margin else "same"
        verdicts.append(Verdict(test.name, ratio, word))
    if not verdicts:
        raise BenchError("the baseline holds none of these tests; run it with the same lengths and batches")
    return verdicts


def verdict_table(verdicts: list[Verdict], new: EngineReport, old: EngineReport) -> Table:
    """Verdicts, and how the machine itself changed between the two runs."""
    rows = [(v.name, f"{v.ratio.centre:.3f}", f"{v.ratio.low:.3f} to {v.ratio.high:.3f}", v.word) for v in verdicts]
    rows.append(("(read bandwidth of the machine)", f"{new.read_bandwidth / old.read_bandwidth:.3f}", "", ""))
    return Table("Against the baseline: new / old tok/s", ("test", "ratio", "95 % interval", "verdict"), tuple(rows))


def load_engine_report(path: Path) -> EngineReport:
    """Read a saved engine report. Raises BenchError."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=EngineReport)
    except OSError as error:
        raise unreadable(path, error) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BenchError(f"{path.name} is not a result of 'powertrain bench engine': {error}") from error
    if (report.schema, report.schema_version) != (SCHEMA, SCHEMA_VERSION):
        raise BenchError(f"{path.name} has schema {report.schema} {report.schema_version}; measure the baseline again")
    return report
