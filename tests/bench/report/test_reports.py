"""Statistics, checks, result files and tables."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench.commands.report_run import merged
from bench.errors import BenchError
from bench.http.load import LoadPlan
from bench.metrics.checks import loop_lag, token_counts, warmup_drift
from bench.metrics.stalls import StallReport
from bench.metrics.stats import bootstrap_median_ratio, ratio_interval, t_interval
from bench.proof.mock_server import MockBehaviour
from bench.proof.prove import simulate
from bench.report.exports import points_csv, report_json, report_markdown, requests_jsonl, write_whole
from bench.report.plots import write_plots
from bench.report.results import load_report, over_repeats
from bench.report.tables import Table, compare_table, latency_table, number, stalls_table, sweep_table, totals_table
from runtime.install import install_line
from tests.bench.report.made_reports import point, report


def test_intervals_by_hand() -> None:
    interval = t_interval([9.0, 10.0, 11.0])  # mean 10, s = 1, t(0.975, 2) = 4.303
    assert interval is not None
    assert interval.centre == 10.0
    assert (interval.low, interval.high) == pytest.approx((10 - 4.303 / 3**0.5, 10 + 4.303 / 3**0.5))
    assert t_interval([5.0]) is None

    ratio = ratio_interval([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    assert ratio is not None
    assert (ratio.low, ratio.centre, ratio.high) == pytest.approx((2.0, 2.0, 2.0))
    assert ratio_interval([1.0, 0.0], [1.0, 1.0]) is None


def test_bootstrap_covers_a_known_ratio() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(40):
        ratio = bootstrap_median_ratio(rng.normal(120, 5, 30), rng.normal(100, 5, 30), resamples=400)
        inside += ratio.low <= 1.2 <= ratio.high
    assert inside >= 34  # 95 % of 40 is 38


def test_checks_by_hand() -> None:
    assert loop_lag(np.array([0.0] * 98 + [9.0, 9.0])).ok is False
    assert loop_lag(np.full(100, 4.9)).ok is True
    assert loop_lag(np.empty(0)).ok is None

    steady = simulate(MockBehaviour(), LoadPlan(concurrency=1, request_count=20), output_tokens=4).records
    assert warmup_drift(steady).value == pytest.approx(0.0, abs=1e-9)
    assert warmup_drift(steady[:19]).ok is None
    without = simulate(MockBehaviour(usage=False), LoadPlan(concurrency=1, request_count=2), output_tokens=4).records
    assert token_counts(without).ok is False
    assert "2 of 2 answers carried no usage; their tokens are chunks, not tokens" in token_counts(without).detail
    own = [replace(record, own_tokens=3) for record in steady]
    assert token_counts(own).value == pytest.approx(0.25)
    assert token_counts(own).ok is False


def test_report_survives_its_file(tmp_path: Path) -> None:
    saved = report([point("a", 1), point("a", 4)])
    path = tmp_path / "out" / "report.json"
    write_whole(path, report_json(saved))

    assert load_report(path) == saved
    assert list(path.parent.iterdir()) == [path]
    assert over_repeats(saved.points[0], "ttft.p50")[0] == pytest.approx(100.0)
    assert over_repeats(saved.points[0], "nothing.p50") == (None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "is not a result of 'powertrain bench http'"),
        ('{"schema":"powertrain-bench-http","schema_version":99}', "has schema powertrain-bench-http 99"),
        ('{"schema":"powertrain-bench-http","schema_version":1}', "is damaged"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BenchError, match=message):
        load_report(path)


def test_csv_and_jsonl_hold_the_figures() -> None:
    points = [point("a", 1), point("a", 4)]
    rows = list(csv.DictReader(io.StringIO(points_csv(points).decode())))
    assert [row["load"] for row in rows] == ["concurrency 1", "concurrency 4"]
    assert float(rows[1]["output_tps"]) == pytest.approx(4 * 11 / 0.2, rel=1e-5)
    assert float(rows[0]["ttft.p99.9"]) == pytest.approx(100.0)

    simulation = simulate(
        MockBehaviour(ttft_ms=100, itl_ms=10), LoadPlan(concurrency=1, request_count=2), output_tokens=3
    )
    lines = requests_jsonl(("a", "x", 0, record) for record in simulation.records).splitlines()
    first = msgspec.json.decode(lines[0])
    assert len(lines) == 2
    assert first["chunks_ms"] == [100.0, 110.0, 120.0]
    assert first["metrics"]["tpot"] == pytest.approx(10.0)
    assert (first["outcome"], first["phase"], first["usage_tokens"]) == ("ok", "measured", 3)


def test_numbers_in_tables_have_four_digits() -> None:
    values = (None, 0.01234, 1.2345, 12.345, 123.45, 1234.5, 1234567.0)
    assert [number(value) for value in values] == ["-", "0.012", "1.23", "12.35", "123.5", "1,234", "1,234,567"]


def test_markdown_tables() -> None:
    table = Table("T", ("name", "x"), (("a|b", "1"),))
    assert table.markdown() == "**T**\n\n| name | x |\n| --- | ---: |\n| a\\|b | 1 |\n"

    text = report_markdown(report([point("a", 1), point("a", 4)]), definitions=True)
    assert (
        "| concurrency 4 | 8 | 11 | 2 x 8 | 100.0 | 100.0* | 10.00 | 10.00* | 200.0 | 220.0 | 100.0 | 20.00 | 0 |"
        in text
    )
    assert (
        "\n\np99*: 8 requests, needs >= 100; p99*: 80 gaps, needs >= 100. A percentile p needs at least 1/(1 - p)"
        in text
    )
    assert "| Time to first token [ms] | 100.0 | 100.0 | 100.0* | 100.0* | 100.0* | 100.0 | 2 x 8 |" in text
    assert "* ttft [ms] = t_1 - t_send (per request)." in text
    assert "Measured on a cpu, 2 cores, 24.0 GiB" in text


def test_latency_and_totals_tables() -> None:
    one = point("a", 4)
    tpot = latency_table(one, ("tpot",), ("mean", "p50", "p99"))
    assert tpot.columns == ("metric", "mean", "p50", "p99", "values")
    assert tpot.rows == (("Time per output token [ms]", "10.00", "10.00", "10.00*", "2 x 8"),)
    assert tpot.note.startswith("p99*: 8 requests, needs >= 100. A percentile p needs at least 1/(1 - p) values")
    assert latency_table(one, ("tpot",), ("mean", "p50")).note == ""
    assert ("Prompt length [tok]", "8, asked 8") in totals_table(one).rows
    assert ("Answer length [tok]", "11, asked 11") in totals_table(one).rows
    assert ("Output throughput [tok/s]", "220.0 (95 %: 220.0 to 220.0)") in totals_table(one).rows
    assert ("Requests", "16 ok") in totals_table(one).rows


def test_stalls_of_few_gaps_are_marked() -> None:
    stalls = StallReport(3, 50.0, 10.0, 40.0, 60.0, 10.0, 11.0, 3.6, 19, 20)
    one = point("a", 1)

    def table(found: StallReport) -> Table:
        made = stalls_table(msgspec.structs.replace(one, runs=[msgspec.structs.replace(one.runs[0], stalls=found)]))
        assert made is not None
        return made

    assert table(stalls).rows[0] == ("gaps", "19", "20")
    assert table(stalls).rows[2] == ("gap p95 [ms]", "40.00*", "11.00")
    assert table(stalls).note.startswith("p95*: needs >= 20 gaps. A percentile p")
    old = table(msgspec.structs.replace(stalls, during_count=0, outside_count=0))
    assert (old.rows[0], old.rows[2], old.note) == (("gaps", "-", "-"), ("gap p95 [ms]", "40.00", "11.00"), "")


def test_comparison_is_against_the_first_target() -> None:
    points = [point("base", 1, 100.0), point("slow", 1, 300.0)]
    table = compare_table(points)
    assert table is not None
    name, requests, ttft, _, itl, *_ = table.rows[0]
    assert (name, requests, ttft) == ("slow / base · concurrency 1", "2 x 8 / 2 x 8", "3.00x (3.00 to 3.00)")
    assert itl == "1.00x* (1.00 to 1.00)"
    assert table.note.startswith("p99*: 80 gaps, needs >= 100.")
    assert compare_table(points[:1]) is None
    assert sweep_table(points).rows[1][0] == "slow · concurrency 1"


def test_plots_name_the_line_that_installs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BenchError) as refused:
        write_plots(report([point("a", 1)]), tmp_path)
    assert (
        str(refused.value) == f"plots need matplotlib: {install_line('plots', 'matplotlib')}; HTML reports need nothing"
    )


def test_several_reports_become_one_comparison() -> None:
    one, two = report([point("x", 1)]), report([point("x", 1)])
    both = merged([("before", one), ("after", two)], None)
    assert [p.target for p in both.points] == ["before", "after"]
    assert both.title == "before against after"
    with pytest.raises(BenchError, match="same name"):
        merged([("a", one), ("a", two)], None)
    with pytest.raises(BenchError, match="different formulas"):
        merged([("a", one), ("b", msgspec.structs.replace(two, formula_version=2))], None)
