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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.http.endpoint import ChatOptions, Endpoint
from bench.http.http_client import Dial, HttpClient, NowNs, socket_dial
from bench.http.load import LoadPlan, LoadRunner
from bench.http.loop_lag import LoopLag
from bench.http.tokens import TokenCounter
from bench.http.workload import Workload
from bench.metrics.checks import run_checks
from bench.metrics.metrics import measure
from bench.metrics.records import RequestRecord
from bench.metrics.slo import Objective
from bench.metrics.stalls import stall_report
from bench.report.results import Point, RunResult, request_table

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBench:
    """A benchmark: every load against every target, ``repeats`` times."""

    targets: Sequence[Target]
    loads: Sequence[NamedLoad]
    workload: Workload
    counter: TokenCounter
    objectives: tuple[Objective, ...] = ()
    repeats: int = 1
    reuse_connections: bool = True
    verify_tls: bool = True

    async def run(self, watcher: Watcher, now_ns: NowNs = time.perf_counter_ns) -> list[Point]:
        """Run everything. A run that the user interrupts ends the benchmark; what was measured is kept."""
        results: dict[tuple[int, int], list[RunResult]] = {}
        for repeat in range(self.repeats):
            for load_number, load in enumerate(self.loads):
                for step in range(len(self.targets)):
                    number = (step + repeat) % len(self.targets)
                    target = self.targets[number]
                    client = self._client(target, now_ns)
                    run = repeat * len(self.loads) + load_number
                    numbered = NamedLoad(load.name, replace(load.plan, run=run))
                    try:
                        result = await self.run_once(client, target, numbered, watcher, repeat)
                    finally:
                        await client.close()
                    results.setdefault((load_number, number), []).append(result)
                    if result.stop_reason == INTERRUPTED:
                        return self._points(results)
        return self._points(results)

    async def run_once(
        self, client: HttpClient, target: Target, load: NamedLoad, watcher: Watcher, repeat: int = 0
    ) -> RunResult:
        """One run on an open client."""
        runner = LoadRunner(client, target.options, load.plan, self.workload, watcher.request_ended)
        lag = LoopLag(client.now_ns)
        watcher.run_started(target, load, repeat, runner)
        gc.collect()
        gc.freeze()
        started_unix = time.time()
        with _interruptible(lambda: runner.stop(INTERRUPTED, now=True)):
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
        )
        watcher.run_ended(result, list(records))
        return result

    def _client(self, target: Target, now_ns: NowNs) -> HttpClient:
        dial: Dial = socket_dial(target.endpoint, verify_tls=self.verify_tls)
        return HttpClient(target.endpoint, dial, now_ns, reuse=self.reuse_connections)

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
            )
            for (load_number, number), runs in sorted(results.items())
        ]


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
