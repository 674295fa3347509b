"""Runs loads against endpoints, interleaved over repeats, and turns each into a result. No output, no flags.

Rounds go load by load and, within a load, target by target in rotated order, so that a machine whose speed drifts
treats every target alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.http.endpoint import ChatOptions, Endpoint
from bench.http.http_client import Dial, HttpClient, NowNs, socket_dial
from bench.http.load import LoadPlan, LoadRunner
from bench.http.loop_lag import LoopLag
from bench.http.server_scraper import ServerScraper, metrics_paths
from bench.http.tokens import TokenCounter
from bench.http.workload import Workload
from bench.metrics.checks import run_checks
from bench.metrics.metrics import measure
from bench.metrics.records import RequestRecord
from bench.metrics.slo import Objective
from bench.metrics.stalls import stall_report
from bench.report.results import Point, RunResult, request_table, zero_ns

INTERRUPTED = "interrupted by the user"


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint and how to ask it."""

    endpoint: Endpoint
    options: ChatOptions


@dataclass(frozen=True, slots=True)
class NamedLoad:
    """A load plan under the name that tables show."""

    name: str
    plan: LoadPlan


class Watcher:
    """What a user interface may override to follow a benchmark; this one looks away."""

    def run_started(self, target: Target, load: NamedLoad, repeat: int, runner: LoadRunner) -> None:
        """A run begins."""

    def request_ended(self, record: RequestRecord) -> None:
        """A request ended; called between network events, so it must be quick."""

    def run_ended(self, result: RunResult, records: list[RequestRecord]) -> None:
        """A run is over and measured."""

    def server_metrics_missing(self, target: Target, problem: str) -> None:
        """The endpoint's own metrics could not be read, or not always; told once per target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBench:
    """A benchmark: every load against every target, ``repeats`` times.

    ``isl`` and ``osl`` say for a reader which lengths of prompts and answers are asked for. ``server_metrics`` reads
    the endpoints' own metrics beside each run.
    """

    targets: Sequence[Target]
    loads: Sequence[NamedLoad]
    workload: Workload
    counter: TokenCounter
    objectives: tuple[Objective, ...] = ()
    repeats: int = 1
    reuse_connections: bool = True
    verify_tls: bool = True
    server_metrics: bool = False
    isl: str = ""
    osl: str = ""

    async def run(self, watcher: Watcher, now_ns: NowNs = time.perf_counter_ns) -> list[Point]:
        """Run everything. A run that the user interrupts ends the benchmark; what was measured is kept."""
        results: dict[tuple[int, int], list[RunResult]] = {}
        without: dict[int, bool] = {}  # by target: whether its own metrics are worth another try
        for repeat in range(self.repeats):
            for load_number, load in enumerate(self.loads):
                for step in range(len(self.targets)):
                    number = (step + repeat) % len(self.targets)
                    target = self.targets[number]
                    client = self._client(target.endpoint, now_ns)
                    scraper = self._scraper(target, now_ns) if without.get(number, True) else None
                    run = repeat * len(self.loads) + load_number
                    numbered = NamedLoad(load.name, replace(load.plan, run=run))
                    try:
                        result = await self.run_once(client, target, numbered, watcher, repeat=repeat, scraper=scraper)
                    finally:
                        await client.close()
                    if result.server is not None and result.server.problem is not None:
                        if number not in without:
                            watcher.server_metrics_missing(target, result.server.problem)
                        without[number] = bool(result.server.at_ms)
                    results.setdefault((load_number, number), []).append(result)
                    if result.stop_reason == INTERRUPTED:
                        return self._points(results)
        return self._points(results)

    async def run_once(
        self,
        client: HttpClient,
        target: Target,
        load: NamedLoad,
        watcher: Watcher,
        *,
        repeat: int = 0,
        scraper: ServerScraper | None = None,
    ) -> RunResult:
        """One run on an open client, with the endpoint's own metrics if there is a scraper."""
        runner = LoadRunner(client, target.options, load.plan, self.workload, watcher.request_ended)
        lag = LoopLag(client.now_ns)
        watcher.run_started(target, load, repeat, runner)
        gc.collect()
        gc.freeze()
        started_unix = time.time()
        with _interruptible(lambda: runner.stop(INTERRUPTED, now=True)):
            async with _scraping(scraper):
                lag.start()
                await runner.run()
                lag_ms = lag.stop()
        gc.unfreeze()
        records = runner.count_answers(self.counter) if self.counter.is_exact else runner.records
        measurement = measure(records, self.objectives)
        result = RunResult(
            started_unix=started_unix,
            measurement=measurement,
            checks=run_checks(records, measurement, load.plan.concurrency, lag_ms),
            requests=request_table(records),
            stalls=stall_report(records) if load.plan.probe else None,
            stop_reason=runner.stop_reason,
            server=scraper.series(zero_ns(records)) if scraper is not None else None,
        )
        watcher.run_ended(result, list(records))
        return result

    def _client(self, endpoint: Endpoint, now_ns: NowNs) -> HttpClient:
        dial: Dial = socket_dial(endpoint, verify_tls=self.verify_tls)
        return HttpClient(endpoint, dial, now_ns, reuse=self.reuse_connections)

    def _scraper(self, target: Target, now_ns: NowNs) -> ServerScraper | None:
        if not self.server_metrics:
            return None
        client = self._client(replace(target.endpoint, base=""), now_ns)
        return ServerScraper(client, target.options.model, metrics_paths(target.endpoint.base))

    def _points(self, results: dict[tuple[int, int], list[RunResult]]) -> list[Point]:
        return [
            Point(
                target=self.targets[number].endpoint.label,
                url=self.targets[number].endpoint.url,
                model=self.targets[number].options.model,
                load=self.loads[load_number].name,
                concurrency=self.loads[load_number].plan.concurrency,
                request_rate=arrivals.rate_per_s if (arrivals := self.loads[load_number].plan.arrivals) else None,
                runs=runs,
                isl=self.isl,
                osl=self.osl,
            )
            for (load_number, number), runs in sorted(results.items())
        ]


@contextlib.asynccontextmanager
async def _scraping(scraper: ServerScraper | None) -> AsyncIterator[None]:
    """While entered, the scraper reads, if there is one."""
    if scraper is None:
        yield
        return
    await scraper.start()
    try:
        yield
    finally:
        await scraper.stop()


@contextlib.contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """While entered, Ctrl-C calls ``stop`` instead of killing the process, so that results are kept."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (NotImplementedError, RuntimeError, ValueError):
        yield  # not the main thread: the embedding program owns its signals
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
