"""The page of a report: drawings, notes and what the server told, well-formed and self-contained."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import msgspec
import numpy as np
import pytest
from rich.console import Console

from bench.http.load import LoadPlan
from bench.metrics.checks import loop_lag
from bench.metrics.server_metrics import ServerSeries
from bench.metrics.stalls import StallReport
from bench.metrics.stats import distribution, needed_count
from bench.proof.mock_server import MockBehaviour
from bench.proof.prove import simulate
from bench.report.charts import comparison, latency_over_load
from bench.report.html_report import report_html
from bench.report.samples import count_text, is_short, lengths_line, measured_lengths, notes
from bench.report.svg import Chart, Scale, series, tick_text
from bench.report.tables import Table
from bench.report.time_charts import time_charts
from tests.bench.report.made_reports import point, report, run_of


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        self.outside += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_well_formed_self_contained_and_escaped() -> None:
    stalls = StallReport(3, 50.0, 10.0, 40.0, 60.0, 10.0, 11.0, 3.6)
    failing = point("b", 4, behaviour=MockBehaviour(cut_after_chunks=3, fault_every=2))
    tainted = msgspec.structs.replace(failing.runs[0], checks=[loop_lag(np.full(9, 50.0))], stalls=stalls)
    points = [point("a", 1), point("a", 4), point("b", 1), msgspec.structs.replace(failing, runs=[tainted])]

    html = report_html(report(points))

    page = _Page()
    page.feed(html)
    assert page.open == []
    assert page.outside == []
    assert page.tags.count("script") == page.tags.count("style") == 1
    assert "http://www" not in html.replace("http://www.w3.org", "")
    assert "A &lt;title&gt; &amp; more" in html
    assert "Client loop lag p99" in html
    assert "4 failed with cut: the endpoint closed the connection after 3 chunks" in html
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 4 + 4 + 4 + 4 * (4 + 3)
    for drawing in drawings:
        assert ET.fromstring(drawing).get("role") == "img"  # noqa: S314 - our own drawing
        assert "nan" not in drawing


def test_the_policy_admits_this_script_and_this_style_and_nothing_else() -> None:
    html = report_html(report([point("a", 1)]))
    digests = {}
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests[tag] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digests['style']}'; script-src 'sha256-{digests['script']}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in html
    assert not re.search(r"<[^>]* (style|on[a-z]+)=", html.split("<main>")[1].split("</main>")[0])
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_drawings_say_what_the_script_reads() -> None:
    chart = Chart("T", "s", "a&b", width=200, height=100, axis="time")
    chart.set_x(1, 100, log=True)
    chart.set_y(0, 10)
    chart.dot(chart.x(10), chart.y(5), "s0", "ten", group=1)
    chart.line([(56, 58), (186, 34)], "s1", group=0, has_values=True)
    chart.legend = [("one", "s1"), ("two", "s0")]
    drawn = chart.svg()
    assert drawn.startswith('<figure class="chart" data-axis="time"><svg viewBox="0 0 200 100" role="img"')
    assert 'data-x="1 100 56 186 log" data-y="0 10 58 34 linear" data-x-title="s" data-y-title="a&amp;b"' in drawn
    assert '<circle class="dot s0" data-group="1" cx="121.00" cy="46.00" r="4"><title>ten</title></circle>' in drawn
    assert '<polyline class="line s1" data-group="0" data-values="" points="56.00,58.00 186.00,34.00">' in drawn
    assert '<span data-group="0"><i class="s1"></i>one</span><span data-group="1"><i class="s0"></i>two</span>' in drawn
    assert "data-fixed" not in drawn
    assert (series(5), series(6)) == ("s5", "s0 again")


def test_names_stand_beside_their_points_and_not_on_each_other() -> None:
    chart = Chart("T", "s", "y")
    for _ in range(5):
        chart.name(260, 120, "concurrency 16")
    assert [mark.split('"')[3:6:2] for mark in chart.labels] == [
        ["267.00", "114.00"], ["166.20", "114.00"], ["267.00", "134.00"], ["166.20", "134.00"]
    ]  # fmt: skip
    near_edge = Chart("T", "s", "y")
    near_edge.name(500, 120, "concurrency 16")
    assert 'x="406.20"' in near_edge.labels[0]


def test_names_of_loads_are_whole_everywhere() -> None:
    long = "0.125 req/s poisson, a name that goes on"
    points = [msgspec.structs.replace(point("a", count), load=f"{long} {count}") for count in (1, 2, 4)]
    html = report_html(report(points))
    for one in points:
        assert html.count(escape(one.load)) > 10
    turned = re.findall(
        r'<text class="tick" [^>]* transform="rotate\(-35 [^>]*>([^<]*)<', comparison(points, "output_tps", "T")
    )
    assert turned == [one.load for one in points]
    written = io.StringIO()
    Console(width=30, file=written).print(Table("T", ("load", "figure"), (("z" * 60, "1"),)).rich())
    assert written.getvalue().count("z") == 60


def test_header_and_loads_say_lengths_and_sizes() -> None:
    one, four = point("a", 1), point("a", 4)
    assert lengths_line(one) == "ISL 8 asked, 8 measured · OSL 11 asked, 11 measured · 2 x 8 requests"
    assert "<p>ISL 8 asked, 8 measured · OSL 11 asked, 11 measured · 2 x 8 requests</p>" in report_html(report([one]))
    other = msgspec.structs.replace(four, osl="20", runs=four.runs[:1])
    together = "ISL 8 asked, 8 measured · OSL 11, 20 asked, 11 measured · 8 to 16 requests in each of 2 loads"
    html = report_html(report([one, other]))
    assert f"<p>{together}</p>" in html
    assert html.count("2 x 8 requests</p>") == 1
    old = msgspec.structs.replace(one, isl="", osl="")
    assert lengths_line(old) == "ISL 8 measured · OSL 11 measured · 2 x 8 requests"
    mixed = distribution(np.array([2.0, 4.0]))
    assert mixed is not None
    measurement = msgspec.structs.replace(
        one.runs[0].measurement, distributions={**one.runs[0].measurement.distributions, "input_tokens": mixed}
    )
    varied = msgspec.structs.replace(one, runs=[msgspec.structs.replace(one.runs[0], measurement=measurement)])
    assert measured_lengths(varied, "input_tokens") == "3 (2 to 4)"


def test_percentiles_need_one_over_their_tail() -> None:
    needed = {name: needed_count(name) for name in ("mean", "max", "p1", "p10", "p50", "p90", "p95", "p99", "p99.9")}
    assert list(needed.values()) == [1, 1, 100, 10, 2, 10, 20, 100, 1000]
    enough = simulate(MockBehaviour(), LoadPlan(concurrency=4, request_count=100), output_tokens=2)
    few = simulate(MockBehaviour(), LoadPlan(concurrency=4, request_count=99), output_tokens=2)
    whole = msgspec.structs.replace(point("a", 4), runs=[run_of(enough)])
    short = msgspec.structs.replace(whole, runs=[run_of(few), run_of(enough)])
    assert not is_short(whole, "ttft.p99")
    assert is_short(short, "ttft.p99")  # one of the repeats is enough to spoil the mean
    assert not is_short(short, "ttft.p95")
    assert notes([whole, short], ["ttft.p99"]).startswith("p99*: 99 requests, needs >= 100. A percentile p")
    assert count_text(short, "ttft") == "99 + 100"
    assert "dashed p99*" in latency_over_load([short, whole], "ttft")
    assert "dashed p99<" in latency_over_load([whole, whole], "ttft")


def told(**values: list[float | None]) -> ServerSeries:
    return ServerSeries([-5.0, 100.0, 200.0], dict(values), path="/metrics")


def test_what_the_server_told_stands_below_the_requests_on_their_axis() -> None:
    base = point("a", 4).runs[0]
    server = told(running=[0.0, 4.0, 2.0], waiting=[None, 1.0, 0.0], gpu_use=[50.0, None, 100.0])
    one = msgspec.structs.replace(point("a", 4), runs=[msgspec.structs.replace(base, server=server)])
    charts = time_charts(one, "time-7")
    titles = [re.search(r'aria-label="([^"]*)"', chart)[1] for chart in charts]  # type: ignore[index]
    assert titles == [
        "Requests in time", "Time to first token, by the moment of sending",
        "Time per output token, by the moment of sending", "Requests at the server, as it tells", "GPU, as it tells",
    ]  # fmt: skip
    assert all('data-axis="time-7"' in chart for chart in charts)
    axes = {re.search(r'data-x="([^"]*)"', chart)[1] for chart in charts}  # type: ignore[index]
    assert axes == {"0 0.4 56 1046 linear"}
    running, gpu = charts[3:]
    # y: 0..4*1.15 requests on 148..34; the sample before the first request stands at its left end
    assert 'class="line s2" data-group="0" data-values="" points="56.00,148.00 303.50,48.87 551.00,98.43"' in running
    assert 'class="line s3" data-group="1" data-values="" points="303.50,123.22 551.00,148.00"' in running
    # broken where the server told nothing: two lines of a single sample each
    assert re.findall(r'data-values="" points="([^"]*)"', gpu) == [
        "56.00,91.00 59.00,91.00",
        "551.00,34.00 554.00,34.00",
    ]
    assert '<i class="s2"></i>running</span>' in running
    assert 'data-y="0 100 148 34 linear"' in gpu
    little = msgspec.structs.replace(base, server=told(cache_use=[1.0, 4.0, 2.0]))
    assert 'data-y="0 4.6 148 34 linear"' in time_charts(msgspec.structs.replace(one, runs=[little]), "t")[3]
    assert "No server metrics" not in report_html(report([one]))


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (ServerSeries([], {}, problem="GET /metrics was answered with HTTP 404"),
         "No server metrics: GET /metrics was answered with HTTP 404."),
        (ServerSeries([0.0, 9.0, 9.5], {}, "/metrics", 2, "GET /metrics: &lt;"),
         "2 of 5 readings of the server's metrics failed; the first: GET /metrics: &amp;lt;."),
    ],
)  # fmt: skip
def test_missing_server_metrics_are_told(server: ServerSeries, text: str) -> None:
    one = point("a", 1)
    runs = [msgspec.structs.replace(one.runs[0], server=server)]
    html = report_html(report([msgspec.structs.replace(one, runs=runs)]))
    assert text in html.replace("&#x27;", "'")


def test_page_of_a_run_without_any_success() -> None:
    html = report_html(report([point("a", 2, behaviour=MockBehaviour(model="other"))]))
    assert "8 failed with http_404" in html


def test_scales() -> None:
    linear = Scale(0, 100, 10, 110)
    assert (linear(0), linear(50), linear(500)) == (10, 60, 110)
    assert linear.ticks() == [0, 20, 40, 60, 80, 100]
    log = Scale(1, 1000, 0, 300, log=True)
    assert log(10) == pytest.approx(100)
    assert log.ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000])
    assert [tick_text(value) for value in (0.05, 2.5, 1500, 20_000)] == ["0.05", "2.5", "1,500", "20k"]
