"""Reads an endpoint's metrics page beside a run, once a second on the same event loop. Knows no load and no report.

On a connection of its own, so that it takes none from the load; whatever goes wrong is noted and harms nothing.
"""

from __future__ import annotations

import asyncio

from bench.errors import StreamError
from bench.http.http_client import HttpClient
from bench.metrics.server_metrics import Sample, ServerSeries, sample_from_page, series_from_samples

INTERVAL_S = 1.0
_TIMEOUT_S = 5.0
_NO_METRICS = "metrics"


def metrics_paths(base: str) -> tuple[str, ...]:
    """Where a server with this base (``/v1``) may have its metrics: NIM below the base, vLLM beside it."""
    beside = base.rpartition("/")[0]
    return tuple(dict.fromkeys(f"{prefix}/metrics" for prefix in (base, beside, "")))


class ServerScraper:
    """Scrapes of one run. ``client`` must have the server's root as its base; ``model`` is the one that is asked."""

    def __init__(self, client: HttpClient, model: str, paths: tuple[str, ...]) -> None:
        self._client = client
        self._model = model
        self._paths = paths
        self._path = ""
        self._samples: list[tuple[int, Sample]] = []
        self._num_failed = 0
        self._problem: str | None = None
        self._beside: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the page and read it once; after that every second, if there is one."""
        for path in self._paths:
            try:
                await self._scrape(path)
            except StreamError as error:
                self._problem = self._problem or str(error)
                if error.kind != _NO_METRICS:
                    return
            else:
                self._path, self._problem = path, None
                self._beside = asyncio.ensure_future(self._forever())
                return

    async def stop(self) -> None:
        """Read the page once more, and no more."""
        if self._beside is not None:
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
            await self._scrape_or_note()
        await self._client.close()

    def series(self, zero_ns: int) -> ServerSeries:
        """What was read, as it stands in the report. ``zero_ns`` is when the first measured request was due."""
        return series_from_samples(
            self._samples, zero_ns, path=self._path, num_failed=self._num_failed, problem=self._problem
        )

    async def _forever(self) -> None:
        due_ns = self._client.now_ns()
        while True:
            due_ns += round(INTERVAL_S * 1e9)
            await asyncio.sleep(max(0.0, (due_ns - self._client.now_ns()) / 1e9))
            await self._scrape_or_note()

    async def _scrape_or_note(self) -> None:
        try:
            await self._scrape(self._path)
        except StreamError as error:
            self._num_failed += 1
            self._problem = self._problem or str(error)

    async def _scrape(self, path: str) -> None:
        """Take one sample. Raises StreamError."""
        asked_ns = self._client.now_ns()
        try:
            status, body = await self._client.get(path, timeout_s=_TIMEOUT_S)
        except StreamError as error:
            raise StreamError(error.kind, f"GET {path}: {error}") from error
        if status != 200:
            raise StreamError(_NO_METRICS, f"GET {path} was answered with HTTP {status}")
        try:
            sample = sample_from_page(body.decode("utf-8", "replace"), self._model)
        except ValueError as error:
            raise StreamError(_NO_METRICS, f"GET {path} gave no Prometheus text") from error
        if not sample:
            raise StreamError(_NO_METRICS, f"GET {path} gave none of the metrics that are read")
        # What it told was true at some moment in between.
        self._samples.append(((asked_ns + self._client.now_ns()) // 2, sample))
