"""What an endpoint tells of itself: which of its metrics are read, under which names, and what becomes of the samples.

Prometheus text in, time series out. Knows no socket and no clock. Names are powertrain's and NIM 1.x's first, then
vLLM's (and NIM 2.x's).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec
from prometheus_client.parser import text_string_to_metric_families

Sample = Mapping[str, float]
"""The metrics that are read, by their names on the page; of several series of a name their sum, of shares the mean."""


class Kind(StrEnum):
    """How a value comes from one sample or two."""

    VALUE = "value"
    """The first name's value."""
    SHARE = "share"
    """The first name's value / the second's."""
    PACE = "pace"
    """What the first name grew by since the sample before / what the second did; undefined where that is nothing."""


class Source(msgspec.Struct, frozen=True):
    """Where an endpoint may tell a metric: ``kind`` says how ``names`` make the value, times ``scale``."""

    kind: Kind
    names: tuple[str, ...]
    scale: float = 1.0


class ServerMetric(msgspec.Struct, frozen=True):
    """A series of the report. ``panel`` is the chart that it is drawn in; the first source that a page has is read."""

    key: str
    title: str
    unit: str
    panel: str
    sources: tuple[Source, ...]


class ServerSeries(msgspec.Struct, frozen=True):
    """What an endpoint told during one run, by keys of SERVER_METRICS; each list is as long as ``at_ms``.

    ``at_ms`` counts from when the first measured request was due; the first sample may lie before that. ``num_failed``
    scrapes gave nothing; ``problem`` is what the first of them said, or why there is no sample at all.
    """

    at_ms: list[float]
    values: dict[str, list[float | None]]
    path: str = ""
    num_failed: int = 0
    problem: str | None = None


def _values(*names: str, scale: float = 1.0) -> tuple[Source, ...]:
    return tuple(Source(Kind.VALUE, (name,), scale) for name in names)


def _paces(*pairs: tuple[str, str], scale: float) -> tuple[Source, ...]:
    return tuple(Source(Kind.PACE, pair, scale) for pair in pairs)


def _means_of(*histograms: str, scale: float) -> tuple[Source, ...]:
    return _paces(*((f"{name}_sum", f"{name}_count") for name in histograms), scale=scale)


SERVER_METRICS: tuple[ServerMetric, ...] = (
    ServerMetric("running", "running", "requests", "Requests at the server",
                 _values("num_requests_running", "vllm:num_requests_running")),
    ServerMetric("waiting", "waiting", "requests", "Requests at the server",
                 _values("num_requests_waiting", "vllm:num_requests_waiting")),
    ServerMetric("cache_use", "KV cache in use", "%", "Cache",
                 _values("gpu_cache_usage_perc", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", scale=100)),
    ServerMetric("prefix_hits", "prompt tokens from the cache", "%", "Cache",
                 _paces(("prefix_cache_hits_total", "prefix_cache_queries_total"),
                        ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total"),
                        ("vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_queries_total"), scale=100)),
    ServerMetric("step_time", "a step in the backend", "ms", "Step time",
                 _paces(("engine_run_seconds_total", "engine_steps_total"), scale=1000)),
    ServerMetric("token_gap", "between tokens, by the server", "ms", "Step time",
                 _means_of("time_per_output_token_seconds", "vllm:inter_token_latency_seconds",
                           "vllm:time_per_output_token_seconds", scale=1000)),
    ServerMetric("gpu_use", "time with a kernel", "%", "GPU", _values("nv_gpu_utilization", scale=100)),
    ServerMetric("gpu_memory", "memory in use", "%", "GPU",
                 (Source(Kind.SHARE, ("nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"), 100),)),
)  # fmt: skip

_READ = frozenset(name for metric in SERVER_METRICS for source in metric.sources for name in source.names)
_MEANS = frozenset({"gpu_cache_usage_perc", "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}) | {
    "nv_gpu_utilization"
}


def sample_from_page(page: str, model: str) -> Sample:
    """What is read of a metrics page; of series with a ``model_name`` the model's own, if it has any.

    Raises ValueError if one of the lines that are read is none of Prometheus' text format. Other lines are not looked
    at: a page may hold thousands, and the client that measures reads it between two tokens.
    """
    # A page that was cut at a limit ends within a line.
    lines = [line for line in page[: page.rfind("\n") + 1].split("\n") if _name(line) in _READ]
    found: dict[str, list[tuple[str | None, float]]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for one in family.samples:
            if math.isfinite(one.value):
                found.setdefault(one.name, []).append((one.labels.get("model_name"), one.value))
    return {name: _together(name, series, model) for name, series in found.items()}


def _name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0]


def _together(name: str, series: Sequence[tuple[str | None, float]], model: str) -> float:
    own = [value for label, value in series if label == model] or [value for _, value in series]
    return sum(own) / len(own) if name in _MEANS else sum(own)


def series_from_samples(
    samples: Sequence[tuple[int, Sample]], zero_ns: int, *, path: str, num_failed: int = 0, problem: str | None = None
) -> ServerSeries:
    """The series of samples with their times (ns, ascending), from the last one before ``zero_ns`` on."""
    before = sum(at_ns <= zero_ns for at_ns, _ in samples)
    kept = samples[max(0, before - 1) :]
    values: dict[str, list[float | None]] = {}
    for metric in SERVER_METRICS:
        source = next((one for one in metric.sources if any(one.names[0] in sample for _, sample in kept)), None)
        if source is not None:
            row = _row(source, [sample for _, sample in kept])
            if any(value is not None for value in row):
                values[metric.key] = row
    at_ms = [round((at_ns - zero_ns) / 1e6, 3) for at_ns, _ in kept]
    return ServerSeries(at_ms, values, path, num_failed, problem)


def _row(source: Source, samples: Sequence[Sample]) -> list[float | None]:
    if source.kind is Kind.VALUE:
        return [_scaled(sample.get(source.names[0]), 1.0, source.scale) for sample in samples]
    over, under = source.names
    if source.kind is Kind.SHARE:
        return [_scaled(sample.get(over), sample.get(under), source.scale) for sample in samples]
    return [None, *(_scaled(_growth(over, *pair), _growth(under, *pair), source.scale) for pair in pairwise(samples))]


def _growth(name: str, old: Sample, new: Sample) -> float | None:
    """What a counter grew by; None where it is missing, or began again because the server did."""
    if name not in old or name not in new or new[name] < old[name]:
        return None
    return new[name] - old[name]


def _scaled(over: float | None, under: float | None, scale: float) -> float | None:
    return None if over is None or not under else round(scale * over / under, 4)
