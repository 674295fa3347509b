"""The benchmark's page in a browser: its script tells values, zooms and hides; without it the page is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.metrics.server_metrics import ServerSeries
from bench.report.html_report import report_html
from bench.report.results import Point
from tests.bench.report.made_reports import point, report
from tests.browser.test_looks import findings, keep

pytestmark = pytest.mark.browser

OpenReport = Callable[..., Any]
SERVER = ServerSeries(
    [0.0, 100.0, 200.0], {"running": [0.0, 4.0, 2.0], "waiting": [0.0, 1.0, 0.0], "gpu_use": [50.0, 75.0, 100.0]}, "/m"
)
REQUESTS, TTFT, TPOT, RUNNING, GPU = (f"[data-axis] >> nth={number}" for number in range(5))


def load(target: str, concurrency: int) -> Point:
    """A simulated load. In a thread of its own, because Playwright's loop occupies this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(point, target, concurrency).result()


def with_server(one: Point) -> Point:
    return msgspec.structs.replace(one, runs=[msgspec.structs.replace(one.runs[0], server=SERVER)])


@pytest.fixture
def open_report(browser: Any, tmp_path: Path) -> Iterator[OpenReport]:
    """Opens the page of some points from a file; no script fails, nothing offends the policy, nothing else is asked."""
    contexts: list[tuple[Any, list[str], list[str]]] = []

    def start(*points: Point, width: int = 1280, scheme: str = "light", scripts: bool = True) -> Any:
        path = tmp_path / "report.html"
        path.write_text(report_html(report(list(points))), encoding="utf-8")
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=scheme, java_script_enabled=scripts, bypass_csp=False)
        wrong: list[str] = []
        asked: list[str] = []
        contexts.append((context, wrong, asked))
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        page.on("request", lambda request: None if request.url == path.as_uri() else asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield start
    for context, wrong, asked in contexts:
        context.close()
        assert (wrong, asked) == ([], [])


@pytest.fixture
def page(open_report: OpenReport) -> Any:
    """One load with server metrics."""
    return open_report(with_server(load("a", 4)))


def at(page: Any, figure: str, x: float, y: float) -> tuple[float, float]:
    """Where a place of a drawing (in its own units) is on the screen."""
    drawing = page.locator(f"{figure} >> svg")
    drawing.scroll_into_view_if_needed()
    box, (_, _, width, _) = drawing.bounding_box(), map(float, drawing.get_attribute("viewBox").split())
    return box["x"] + x * box["width"] / width, box["y"] + y * box["width"] / width


def ticks(page: Any, figure: str) -> list[str]:
    return list(page.locator(f"{figure} >> .x-ticks text").all_text_contents())


def tip(page: Any, figure: str) -> str:
    return str(page.locator(f"{figure} >> .tip").inner_text())


def drag(page: Any, figure: str, x: float, to: float) -> None:
    page.mouse.move(*at(page, figure, x, 60))
    page.mouse.down()
    page.mouse.move(*at(page, figure, (x + to) / 2, 60))
    page.mouse.move(*at(page, figure, to, 60))
    page.mouse.up()


def test_a_value_is_told_where_the_mouse_is_and_at_that_moment_in_all_charts(page: Any) -> None:
    # 100 ms are at 56 + 990 / 4 = 303.5 of 0.4 s; 4 running at 48.9 of 148..34
    page.mouse.move(*at(page, RUNNING, 310, 55))
    assert tip(page, RUNNING) == "running: 4 requests (0.100 seconds)"
    assert page.locator(f"{RUNNING} >> .legend button").all_inner_texts() == ["running4", "waiting1"]
    assert page.locator(f"{GPU} >> .legend button").all_inner_texts() == ["time with a kernel75"]
    for figure in (REQUESTS, TTFT, RUNNING, GPU):
        assert float(page.locator(f"{figure} >> .cross:not(.off)").get_attribute("x1")) == 303.5
    page.mouse.move(*at(page, REQUESTS, 70, 45))
    assert tip(page, REQUESTS).startswith("request 0: ok, 11 tokens, sent at 0.000 ms, first token after 100.0 ms")
    page.mouse.move(2, 2)
    assert page.locator(".tip:not(.off), .cross:not(.off), .ring:not(.off)").count() == 0
    assert page.locator("svg title").count() == 0  # the browser's own tips would cover ours


def test_the_keyboard_goes_from_value_to_value_and_says_them(page: Any) -> None:
    drawing = page.locator(f"{RUNNING} >> svg")
    drawing.focus()
    said = page.get_by_role("status")
    keys = [
        ("ArrowRight", "running: 0 requests (0.000 seconds)"),
        ("ArrowRight", "running: 4 requests (0.100 seconds)"),
        ("ArrowDown", "waiting: 1 requests (0.100 seconds)"),
        ("ArrowUp", "running: 4 requests (0.100 seconds)"),
        ("End", "waiting: 0 requests (0.200 seconds)"),
        ("ArrowRight", "waiting: 0 requests (0.200 seconds)"),
        ("ArrowLeft", "waiting: 1 requests (0.100 seconds)"),
        ("Home", "running: 0 requests (0.000 seconds)"),
    ]
    for key, text in keys:
        drawing.press(key)
        assert (said.inner_text(), tip(page, RUNNING)) == (text, text), key
    assert drawing.get_attribute("role") == "application"
    assert drawing.get_attribute("aria-label").startswith("Requests at the server, as it tells. Left and right")
    drawing.press("Escape")
    assert page.locator(".tip:not(.off)").count() == 0
    drawing.press("ArrowRight")
    page.keyboard.press("Tab")
    assert page.locator(".tip:not(.off)").count() == 0


def test_a_drag_zooms_every_chart_of_the_axis_and_reset_shows_all(page: Any) -> None:
    whole = ["0", "0.1", "0.2", "0.3", "0.4"]
    assert ticks(page, RUNNING) == whole
    bar = page.locator(f"{REQUESTS} >> .marks rect >> nth=0")
    before = [bar.get_attribute(name) for name in ("x", "width")]
    drag(page, RUNNING, 40, 306)  # from left of the axis: the first 0.101 s
    for figure in (REQUESTS, TTFT, TPOT, RUNNING, GPU):
        assert ticks(page, figure) == ["0", "0.05", "0.1"]
        assert page.locator(f"{figure} >> .marks").get_attribute("clip-path").startswith("url(#plot-")
    corners = [
        pair.split(",") for pair in page.locator(f"{RUNNING} >> polyline >> nth=0").get_attribute("points").split()
    ]
    zoomed = 990 / 250
    assert [float(x) for x, _ in corners] == pytest.approx([56, 56 + 247.5 * zoomed, 56 + 495 * zoomed], rel=0.01)
    assert [y for _, y in corners] == ["148", "48.87", "98.43"]
    after = [float(bar.get_attribute(name)) for name in ("x", "width")]
    assert after == [float(before[0]), pytest.approx(zoomed * float(before[1]), rel=0.01)]
    # What is out of sight is not told.
    page.locator(f"{RUNNING} >> svg").press("End")
    assert tip(page, RUNNING) == "waiting: 1 requests (0.100 seconds)"
    page.locator(f"{TPOT} >> svg").hover()
    page.locator(f"{TPOT} >> button:text('Reset')").click()
    assert ticks(page, RUNNING) == whole
    assert [bar.get_attribute(name) for name in ("x", "width")] == before
    assert page.locator("[clip-path]").count() == 0


def test_buttons_keys_wheel_and_double_click_zoom(page: Any) -> None:
    figure = page.locator(RUNNING)
    drawing = figure.locator("svg")
    out, reset = figure.get_by_label("Zoom out"), figure.get_by_text("Reset")
    assert out.is_disabled()
    assert reset.is_disabled()
    figure.get_by_label("Zoom in").click()
    assert ticks(page, RUNNING) == ["0.1", "0.15", "0.2", "0.25", "0.3"]
    assert out.is_enabled()
    out.click()
    assert reset.is_disabled()
    drawing.press("+")
    drawing.press("+")
    assert ticks(page, RUNNING) == ["0.16", "0.18", "0.2", "0.22", "0.24"]
    drawing.press("0")
    assert reset.is_disabled()
    page.mouse.dblclick(*at(page, RUNNING, 300, 60))
    drawing.press("Escape")
    top = page.evaluate("window.scrollY")
    page.mouse.move(*at(page, RUNNING, 56, 60))
    drawing.focus()
    page.mouse.wheel(0, -100)
    page.wait_for_function("element => element.disabled === false", arg=reset.element_handle())
    assert ticks(page, RUNNING)[0] == "0"  # what is under the mouse stays there
    assert page.evaluate("window.scrollY") == top
    page.mouse.dblclick(*at(page, RUNNING, 300, 60))
    assert reset.is_disabled()


def test_the_wheel_scrolls_the_page_over_a_chart_that_nobody_chose(page: Any) -> None:
    page.mouse.move(*at(page, TTFT, 300, 60))
    top = page.evaluate("window.scrollY")
    page.mouse.wheel(0, -200)
    page.wait_for_function("top => window.scrollY < top", arg=top)
    assert page.locator(f"{TTFT} >> button:text('Reset')").is_disabled()


def test_series_are_hidden_by_their_names(page: Any) -> None:
    running = page.locator(f"{RUNNING} >> .legend button").first
    assert running.get_attribute("aria-pressed") == "true"
    running.press("Enter")
    assert running.get_attribute("aria-pressed") == "false"
    lines = page.locator(f"{RUNNING} >> polyline")
    assert [lines.nth(number).is_visible() for number in range(2)] == [False, True]
    page.mouse.move(*at(page, RUNNING, 303.5, 49))
    assert tip(page, RUNNING).startswith("waiting: 1 ")
    running.click()
    assert lines.first.is_visible()
    for group, css in enumerate(("s1", "s0"), 1):
        page.locator(f"{REQUESTS} >> .legend button >> nth={group}").click()
        assert not page.locator(f"{REQUESTS} >> rect.{css} >> nth=0").is_visible()


def test_a_comparison_has_values_but_no_axis_to_zoom(open_report: OpenReport) -> None:
    page = open_report(*(load(name, count) for name in ("a", "b") for count in (1, 4)))
    bars = page.locator("figure[data-fixed]").first
    assert bars.get_by_text("Reset").count() == 0
    bars.locator("svg").press("End")
    assert bars.locator(".tip").inner_text() == "b, concurrency 4: 100.0 (95 %: 100.0 to 100.0)"
    bars.locator("svg").press("+")
    assert page.locator("[clip-path]").count() == 0
    curves = page.locator("figure.chart:has-text('Time to first token, cumulative')")
    curves.locator("svg").press("End")
    assert curves.locator(".tip").inner_text() == "b · concurrency 4: 100 % of values at or below (100.0 ms)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_serious_is_found_and_nothing_is_too_wide(open_report: OpenReport, scheme: str, width: int) -> None:
    page = open_report(with_server(load("a", 4)), load("a", 8), width=width, scheme=scheme)
    page.locator("summary").first.click()
    page.locator(f"{RUNNING} >> svg").press("End")
    keep(page, f"report-{width}-{scheme}")
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_without_a_script_the_page_is_whole(open_report: OpenReport) -> None:
    page = open_report(with_server(load("a", 4)), scripts=False)
    assert page.locator("button, .tip").count() == 0
    assert page.locator("figure.chart svg:visible").count() == 9
    assert page.locator("svg .marks title").count() > 100
    assert page.locator(f"{RUNNING} >> .legend span").all_inner_texts() == ["running", "waiting"]


def test_nothing_else_may_run_in_the_page(open_report: OpenReport) -> None:
    """A name of a load, were it ever written unescaped, could do nothing."""
    hostile = "<img src=x onerror=\"document.title='in'\"><script>document.title='in'</script>"
    page = open_report(msgspec.structs.replace(load("a", 1), load=hostile))
    assert page.locator("img").count() == 0
    assert hostile in page.locator("section h2").last.inner_text()
    assert page.title() != "in"
