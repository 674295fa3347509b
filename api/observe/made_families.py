"""The families of metrics that a server's models share: one of each name, told apart by ``model_name``.

Knows no family's meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from runtime.engine.step_report import EngineStats


class MadeFamilies:
    """The families that a server's models share, by name, and where each engine's state is read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.engines: dict[str, Callable[[], EngineStats]] = {}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}

    def counter(self, name: str, help_text: str, *labels: str) -> Counter:
        """The counter of that name, with these labels behind the model's."""
        if name not in self._counters:
            self._counters[name] = Counter(name, help_text, ["model_name", *labels], registry=self.registry)
        return self._counters[name]

    def gauge(self, name: str, help_text: str) -> Gauge:
        """The gauge of that name."""
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, help_text, ["model_name"], registry=self.registry)
        return self._gauges[name]

    def histogram(self, name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
        """The histogram of that name."""
        if name not in self._histograms:
            made = Histogram(name, help_text, ["model_name"], buckets=buckets, registry=self.registry)
            self._histograms[name] = made
        return self._histograms[name]
