"""What several models of one server do with the memory that they share, for the metrics page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReading:
    """One model at the moment of a scrape. ``memory_bytes`` is what it holds of ``device`` by now."""

    name: str
    state: str
    device: str
    memory_bytes: int
    num_waiting: int
    num_loads: int
    num_failures: int
    num_evictions: int


def watch_models(
    registry: CollectorRegistry, read: Callable[[], Iterable[ModelReading]], budgets: Mapping[str, int]
) -> None:
    """Say where each model's state is read at each scrape. ``budgets``: bytes for all models, by device."""
    registry.register(_ModelFamilies(read, budgets))


class _ModelFamilies(Collector):
    """The families of a server of several models; one of a single model has none of them."""

    def __init__(self, read: Callable[[], Iterable[ModelReading]], budgets: Mapping[str, int]) -> None:
        self._read = read
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        """The families at the moment of the scrape."""
        labels = ["model_name"]
        state = GaugeMetricFamily("powertrain_model_state", "1 for the state of each model.", labels=[*labels, "state"])
        memory = GaugeMetricFamily(
            "powertrain_model_memory_bytes", "Weights and KV cache of a loaded model.", labels=[*labels, "device"]
        )
        waiting = GaugeMetricFamily(
            "powertrain_model_requests_waiting", "Requests that wait for the model to be loaded.", labels=labels
        )
        loads = CounterMetricFamily("powertrain_model_loads", "Times that the model was loaded.", labels=labels)
        failures = CounterMetricFamily("powertrain_model_load_failures", "Times that loading failed.", labels=labels)
        evictions = CounterMetricFamily(
            "powertrain_model_evictions", "Times that the model made room for another.", labels=labels
        )
        for model in self._read():
            state.add_metric([model.name, model.state], 1)
            memory.add_metric([model.name, model.device], model.memory_bytes)
            waiting.add_metric([model.name], model.num_waiting)
            loads.add_metric([model.name], model.num_loads)
            failures.add_metric([model.name], model.num_failures)
            evictions.add_metric([model.name], model.num_evictions)
        budget = GaugeMetricFamily(
            "powertrain_model_memory_budget_bytes", "Memory for all models together.", labels=["device"]
        )
        for device, size in self._budgets.items():
            budget.add_metric([device], size)
        yield from (state, memory, waiting, loads, failures, evictions, budget)
