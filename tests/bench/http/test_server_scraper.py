"""Reading an endpoint's metrics beside a run, in simulated time: exact moments, and no fault that harms the run."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import ClassVar

import pytest

from bench.http.endpoint import ChatOptions, endpoint_from_url
from bench.http.http_bench import HttpBench, NamedLoad, Target, Watcher
from bench.http.http_client import HttpClient
from bench.http.lengths import Lengths
from bench.http.load import LoadPlan
from bench.http.server_scraper import ServerScraper, metrics_paths
from bench.http.tokens import TokenCounter, synthetic_text
from bench.http.workload import GeneratedWorkload
from bench.metrics.server_metrics import ServerSeries
from bench.proof.mock_server import MockBehaviour, MockServer
from bench.proof.virtual_time import START_NS, MemoryNetwork, VirtualTimeLoop
from bench.report.results import RunResult

SLOW = MockBehaviour(ttft_ms=400, itl_ms=100)  # 21 tokens take 2.4 s


def scrape(server: MockServer, seconds: float, base: str = "/v1", port: int = 80) -> ServerSeries:
    """Scrapes an idle server for some simulated seconds."""
    network = MemoryNetwork({("mock", 80): server.protocol})

    async def main(loop: VirtualTimeLoop) -> ServerSeries:
        endpoint = replace(endpoint_from_url("http://mock"), base="")
        client = HttpClient(endpoint, network.dial_to("mock", port), loop.now_ns)
        scraper = ServerScraper(client, "mock", metrics_paths(base))
        await scraper.start()
        await asyncio.sleep(seconds)
        await scraper.stop()
        return scraper.series(START_NS)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return runner.run(main(loop))


class PagesServer(MockServer):
    """Gives one page after the other, the last one for good."""

    def __init__(self, *pages: bytes) -> None:
        super().__init__(MockBehaviour())
        self._pages = list(pages)

    def metrics_page(self) -> bytes:
        return self._pages.pop(0) if len(self._pages) > 1 else self._pages[0]


def test_once_a_second_and_at_both_ends() -> None:
    told = scrape(MockServer(MockBehaviour()), 2.5)
    assert told.at_ms == [0, 1000, 2000, 2500]
    assert told.values == {"running": [0.0] * 4, "waiting": [0.0] * 4}
    assert (told.path, told.num_failed, told.problem) == ("/v1/metrics", 0, None)


def test_a_bad_page_is_a_gap_and_noted_once() -> None:
    good = b"num_requests_running 1\n"
    told = scrape(PagesServer(good, b"num_requests_running x\n", b"<html>", good), 2.5)
    assert told.at_ms == [0, 2500]
    assert (told.num_failed, told.problem) == (2, "GET /v1/metrics gave no Prometheus text")


@pytest.mark.parametrize(
    ("server", "port", "problem"),
    [
        (MockServer(MockBehaviour(metrics=False)), 80, "GET /v1/metrics was answered with HTTP 404"),
        (PagesServer(b"up 1\n"), 80, "GET /v1/metrics gave none of the metrics that are read"),
        (MockServer(MockBehaviour()), 81, "GET /v1/metrics: cannot connect to http://mock:80: Connection refused"),
    ],
)
def test_without_metrics_there_is_a_reason(server: MockServer, port: int, problem: str) -> None:
    told = scrape(server, 2.5, port=port)
    assert (told.at_ms, told.path, told.problem) == ([], "", problem)


def test_metrics_are_looked_for_below_the_base_beside_it_and_at_the_root() -> None:
    assert metrics_paths("/v1") == ("/v1/metrics", "/metrics")
    assert metrics_paths("/llm/v1") == ("/llm/v1/metrics", "/llm/metrics", "/metrics")


def a_bench(target: Target) -> HttpBench:
    return HttpBench(
        targets=[target],
        loads=[NamedLoad("two", LoadPlan(concurrency=2, request_count=2, warmup_count=1))],
        workload=GeneratedWorkload(
            text=synthetic_text(TokenCounter(None)),
            prompt_tokens=Lengths(8, 8, 8.0),
            output_tokens=Lengths(21, 21, 21.0),
        ),
        counter=TokenCounter(None),
        server_metrics=True,
    )


class Listener(asyncio.Protocol):
    """Keeps what it is asked; answers with a page at the root, else with a 404."""

    asked: ClassVar[list[bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        Listener.asked.append(data)
        status, page = (
            (b"200 OK", b"num_requests_running 1\n") if data.startswith(b"GET /metrics ") else (b"404 No", b"")
        )
        head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status, len(page))
        self._transport.write(head + page)  # type: ignore[attr-defined]


def test_the_key_goes_along_to_the_page_that_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = MemoryNetwork({("mock", 80): Listener})
    monkeypatch.setattr("bench.http.http_bench.socket_dial", lambda *_, **__: network.dial_to("mock", 80))
    endpoint = endpoint_from_url("http://mock/v1", headers=(("Authorization", "Bearer secret"),))
    bench = a_bench(Target(endpoint, ChatOptions(model="mock")))

    async def main(loop: VirtualTimeLoop) -> ServerSeries:
        scraper = bench._scraper(bench.targets[0], loop.now_ns)
        assert scraper is not None
        await scraper.start()
        await scraper.stop()
        return scraper.series(START_NS)

    Listener.asked.clear()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        told = runner.run(main(loop))
    assert [data.split(b" HTTP", 1)[0] for data in Listener.asked] == [b"GET /v1/metrics"] + [b"GET /metrics"] * 2
    assert all(b"\r\nAuthorization: Bearer secret\r\n" in data for data in Listener.asked)
    assert (told.path, told.values, told.num_failed, told.problem) == ("/metrics", {"running": [1.0]}, 0, None)


class Told(Watcher):
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.results: list[RunResult] = []

    def server_metrics_missing(self, target: Target, problem: str) -> None:
        self.problems.append(f"{target.endpoint.label}: {problem}")

    def run_ended(self, result: RunResult, records: object) -> None:
        del records
        self.results.append(result)


def run_bench(server: MockServer, monkeypatch: pytest.MonkeyPatch, repeats: int, *, on: bool = True) -> Told:
    """A benchmark of a mock in simulated time."""
    network = MemoryNetwork({("mock", 80): server.protocol})
    monkeypatch.setattr("bench.http.http_bench.socket_dial", lambda *_, **__: network.dial_to("mock", 80))
    watcher = Told()
    target = Target(endpoint_from_url("http://mock", label="it"), ChatOptions(model="mock"))
    bench = replace(a_bench(target), repeats=repeats, server_metrics=on)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        runner.run(bench.run(watcher, loop.now_ns))
    return watcher


def test_a_run_keeps_what_its_server_told_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    told = run_bench(MockServer(SLOW), monkeypatch, 1)
    (result,) = told.results
    assert result.server is not None
    # Warm-up from 0 to 2.4 s, two requests until 4.8 s; the axis begins with these.
    assert result.server.at_ms == [-400, 600, 1600, 2400]
    assert result.server.values["running"] == [1.0, 2.0, 2.0, 0.0]
    assert result.measurement.outcomes["ok"] == 2
    assert told.problems == []


def test_missing_metrics_are_told_once_and_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = run_bench(MockServer(replace(SLOW, metrics=False)), monkeypatch, 3)
    assert told.problems == ["it: GET /v1/metrics was answered with HTTP 404"]
    assert [result.server is None for result in told.results] == [False, True, True]
    assert [result.measurement.outcomes["ok"] for result in told.results] == [2, 2, 2]


class EverySecondPage(MockServer):
    """Gives a page that can be read each second time."""

    def __init__(self) -> None:
        super().__init__(SLOW)
        self._num_asked = 0

    def metrics_page(self) -> bytes:
        self._num_asked += 1
        return b"num_requests_running 1\n" if self._num_asked % 2 else b"num_requests_running x\n"


def test_an_endpoint_that_does_not_always_answer_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = run_bench(EverySecondPage(), monkeypatch, 2)
    assert told.problems == ["it: GET /v1/metrics gave no Prometheus text"]
    # At 0, 2 and 4 s; not at 1, 3 and the end (4.8 s). The axis begins at 2.4 s.
    assert [result.server and (result.server.at_ms, result.server.num_failed) for result in told.results] == [
        ([-400, 1600], 3)
    ] * 2


def test_a_run_may_be_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [result.server for result in run_bench(MockServer(SLOW), monkeypatch, 1, on=False).results] == [None]
