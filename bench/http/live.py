"""Live progress in the terminal: one bar per run with the figures so far. Reads records; measures nothing itself.

Redrawn twice a second from a timer, because drawing takes the client's own CPU.
"""

from __future__ import annotations

import asyncio
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.http.http_bench import NamedLoad, Target, Watcher
from bench.http.load import LoadRunner
from bench.metrics.records import Outcome, Phase, RequestRecord
from bench.report.results import RunResult

_REDRAW_S = 0.5
_RECENT = 64


class LiveProgress(Watcher):
    """Shows the current run, and keeps every record for the JSONL file."""

    def __init__(self, console: Console) -> None:
        self.records: list[tuple[str, str, int, RequestRecord]] = []
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.fields[goal]}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._task: TaskID | None = None
        self._runner: LoadRunner | None = None
        self._recent: deque[RequestRecord] = deque(maxlen=_RECENT)
        self._counts = dict.fromkeys(Outcome, 0)
        self._place = ("", "", 0)
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> LiveProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._progress.stop()

    def run_started(self, target: Target, load: NamedLoad, repeat: int, runner: LoadRunner) -> None:
        """Open a bar for the run."""
        count = load.plan.request_count
        name = f"{target.endpoint.label} · {load.name} · run {repeat + 1}"
        self._task = self._progress.add_task(name, total=count, goal=count or "?", figures="starting")
        self._runner = runner
        self._recent.clear()
        self._counts = dict.fromkeys(Outcome, 0)
        self._place = (target.endpoint.label, load.name, repeat)
        self._schedule()

    def request_ended(self, record: RequestRecord) -> None:
        """Count it."""
        if record.phase is Phase.MEASURED:
            self._counts[record.outcome] += 1
            self._recent.append(record)

    def run_ended(self, result: RunResult, records: list[RequestRecord]) -> None:
        """Close the run's bar."""
        del result
        if self._timer is not None:
            self._timer.cancel()
        self.records += [(*self._place, record) for record in records]
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._progress.refresh()

    def server_metrics_missing(self, target: Target, problem: str) -> None:
        """Say so above the bars."""
        told = f"no (or not all) server metrics of {target.endpoint.label}: {problem}"
        self._progress.console.print(told, highlight=False, markup=False, soft_wrap=True)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_REDRAW_S, self._redraw)

    def _redraw(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=sum(self._counts.values()), figures=self._figures())
            self._progress.refresh()
        self._schedule()

    def _figures(self) -> str:
        running = self._runner.num_running if self._runner is not None else 0
        timed = [record for record in self._recent if record.outcome is Outcome.OK and len(record.chunk_ns) >= 2]
        text = f"{running} running"
        if timed:
            ttft = sorted((int(r.chunk_ns[0]) - r.sent_ns) / 1e6 for r in timed)[len(timed) // 2]
            spans = sorted(
                (int(r.chunk_ns[-1]) - int(r.chunk_ns[0])) / 1e6 / max(r.output_tokens - 1, 1) for r in timed
            )
            span_s = (max(r.end_ns for r in timed) - min(r.sent_ns for r in timed)) / 1e9
            speed = sum(r.output_tokens for r in timed) / span_s
            text += f" · TTFT {ttft:.1f} ms · TPOT {spans[len(spans) // 2]:.2f} ms · {speed:.0f} tok/s"
        if self._counts[Outcome.FAILED]:
            text += f" · [red]{self._counts[Outcome.FAILED]} failed"
        return text
