"""Prometheus metrics: NIM 1.x's names always, vLLM's (NIM 2.x) on request. One registry per application, whose models
are told apart by the label ``model_name``.

Counts and times come from finished request records, gauges from the engine at the moment of a scrape, so they are
never stale; the GPU's are as old as ``gpu_watch`` lets them be. Buckets are those that NIM 1.x documents. Knows no
HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

import prometheus_client
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from runtime.engine.step_report import STEP_TOKEN_BOUNDS, EngineStats

from api.clients.client import Clients
from api.observe.client_metrics import ClientFamilies
from api.observe.gpu_watch import GpuWatch
from api.observe.made_families import MadeFamilies
from api.observe.request_record import Outcome, RequestRecord

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

_TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_TOKEN_TIME_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_LATENCY_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 40, 50, 60)
_COUNT_BUCKETS = (*(digit * 10**power for power in range(5) for digit in (1, 2, 5)), 100_000)
_CHOICE_BUCKETS = (1, 2, 5, 10, 20, 50, 100)


class ServerMetrics:
    """All metrics of one server, as one of its models fills them in. What is no model's, such as its connections, bears
    the name of the first."""

    def __init__(
        self,
        model_name: str,
        read_stats: Callable[[], EngineStats],
        *,
        vllm_names: bool,
        made: MadeFamilies | None = None,
    ) -> None:
        """``made`` are those of the server's other models, whose page shows this one's, too."""
        self._model_name = model_name
        self._vllm_names = vllm_names
        is_first = made is None
        self._made = made = made or MadeFamilies()
        self.registry = made.registry
        if is_first:
            prometheus_client.ProcessCollector(registry=self.registry)
            prometheus_client.PlatformCollector(registry=self.registry)
            self.registry.register(_EngineGauges(made.engines, vllm_names=vllm_names))
        made.engines[model_name] = read_stats
        self._families = [_RequestFamilies(model_name, made)]
        if vllm_names:
            self._families.append(_VllmFamilies(model_name, made))
        self._refused = made.counter("request_refused", "Requests refused with a 4xx status.", "code")
        self._cut = made.counter("connection_cut", "Connections that a limit ended.", "reason")
        self._open = made.gauge("connections_open", "Connections now.")

    def beside(self, model_name: str, read_stats: Callable[[], EngineStats]) -> ServerMetrics:
        """The metrics of another model of the same server, on the same page."""
        return ServerMetrics(model_name, read_stats, vllm_names=self._vllm_names, made=self._made)

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request."""
        for family in self._families:
            family.observe(record)

    def observe_failure(self) -> None:
        """Count a generation request that ended in a 5xx before it got as far as a record."""
        for family in self._families:
            family.failure.inc()

    def observe_refusal(self, status: int) -> None:
        """Count a request that was answered with a 4xx."""
        self._refused.labels(self._model_name, str(status)).inc()

    def observe_cut(self, reason: str) -> None:
        """Count a connection that was ended by a limit of time, size or number."""
        self._cut.labels(self._model_name, reason).inc()

    def watch_connections(self, count: Callable[[], int]) -> None:
        """Say where the number of open connections is read at each scrape."""
        self._open.labels(self._model_name).set_function(count)

    def watch_gpu(self, watch: GpuWatch) -> None:
        """Say where the GPU's memory and load are read at each scrape."""
        self.registry.register(_GpuGauges(self._model_name, watch))

    def watch_clients(self, clients: Clients) -> None:
        """Say whose use is read at each scrape."""
        self.registry.register(ClientFamilies(self._model_name, clients))

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self.registry)


class _RequestFamilies:
    """The per-request counters and histograms, by NIM 1.x's names."""

    prefix = ""
    gap_name = "time_per_output_token_seconds"
    disconnected_name = "request_client_disconnected"
    success_labels: tuple[str, ...] = ()

    def __init__(self, model_name: str, made: MadeFamilies) -> None:
        self._model_name = model_name
        self._made = made
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of all requests.").labels(model_name)
        self._generation_tokens = self._counter("generation_tokens", "Generated tokens.").labels(model_name)
        self._success = self._counter("request_success", "Requests answered in full.", *self.success_labels)
        self.failure = self._counter("request_failure", "Requests ended by a 5xx or an error event.").labels(model_name)
        self._finish = self._counter("request_finish", "Choices by finish reason.", "finished_reason")
        gone = self._counter(self.disconnected_name, "Requests whose client left before the end.")
        self._disconnected = gone.labels(model_name)
        self._ttft = self._histogram("time_to_first_token_seconds", "First token - arrival.", _TTFT_BUCKETS)
        self._gap = self._histogram(self.gap_name, "Time between tokens of one choice.", _TOKEN_TIME_BUCKETS)
        self._latency = self._histogram("e2e_request_latency_seconds", "Finish - arrival.", _LATENCY_BUCKETS)
        self._prompt_sizes = self._histogram("request_prompt_tokens", "Prompt tokens per request.", _COUNT_BUCKETS)
        self._generated_sizes = self._histogram("request_generation_tokens", "Tokens per request.", _COUNT_BUCKETS)
        self._queue = self._histogram("request_queue_time_seconds", "Admitted - arrival.", _TTFT_BUCKETS)
        self._choices = self._histogram("request_params_n", "Choices asked for.", _CHOICE_BUCKETS)
        self._max_tokens = self._histogram("request_params_max_tokens", "Tokens allowed per choice.", _COUNT_BUCKETS)

    def observe(self, record: RequestRecord) -> None:
        """Count a finished request; latencies and sizes of answered ones only."""
        self._prompt_tokens.inc(record.num_prompt_tokens)
        self._generation_tokens.inc(record.num_generated)
        for reason in record.finish_reasons.values():
            self._finish.labels(self._model_name, reason).inc()
        if record.outcome is Outcome.FAILURE:
            self.failure.inc()
        elif record.outcome is Outcome.ABORT:
            self._disconnected.inc()
        elif record.outcome is Outcome.SUCCESS:
            self._observe_success(record)

    def _observe_success(self, record: RequestRecord) -> None:
        reasons = [record.finish_reasons[min(record.finish_reasons)]] if self.success_labels else []
        self._success.labels(self._model_name, *reasons).inc()
        if record.ttft_s is not None:
            self._ttft.observe(record.ttft_s)
        for gap_s in record.gaps_s:
            self._gap.observe(gap_s)
        self._latency.observe(record.total_s)
        self._prompt_sizes.observe(record.num_prompt_tokens)
        self._generated_sizes.observe(record.num_generated)
        if record.queue_s is not None:
            self._queue.observe(record.queue_s)
        self._choices.observe(record.num_choices)
        self._max_tokens.observe(record.max_tokens)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return self._made.counter(self.prefix + name, help_text, *labels)

    def _histogram(self, name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
        return self._made.histogram(self.prefix + name, help_text, buckets).labels(self._model_name)


class _VllmFamilies(_RequestFamilies):
    """The same by vLLM's names, and what vLLM tells beyond: success by finish reason, the phases of a request."""

    prefix = "vllm:"
    gap_name = "inter_token_latency_seconds"
    disconnected_name = "http_requests_client_disconnected"
    success_labels = ("finished_reason",)

    def __init__(self, model_name: str, made: MadeFamilies) -> None:
        super().__init__(model_name, made)
        self._prefill = self._histogram("request_prefill_time_seconds", "First token - admitted.", _TTFT_BUCKETS)
        self._decode = self._histogram("request_decode_time_seconds", "Last token - first token.", _LATENCY_BUCKETS)
        self._inference = self._histogram("request_inference_time_seconds", "Last token - admitted.", _LATENCY_BUCKETS)

    def _observe_success(self, record: RequestRecord) -> None:
        super()._observe_success(record)
        if record.admitted_ns and record.first_token_ns:
            self._prefill.observe((record.first_token_ns - record.admitted_ns) / 1e9)
            self._decode.observe((record.last_token_ns - record.first_token_ns) / 1e9)
            self._inference.observe((record.last_token_ns - record.admitted_ns) / 1e9)


class _EngineGauges(Collector):
    """Each engine's state at the moment of the scrape."""

    def __init__(self, engines: Mapping[str, Callable[[], EngineStats]], *, vllm_names: bool) -> None:
        self._engines = engines
        self._vllm_names = vllm_names

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for model_name, read_stats in self._engines.items():
            for family in self._of(model_name, read_stats()):
                families.setdefault(family.name, family)
                if families[family.name] is not family:
                    families[family.name].samples += family.samples
        yield from families.values()

    def _of(self, model_name: str, stats: EngineStats) -> Iterator[Metric]:
        used = stats.kv_used_tokens / stats.kv_capacity_tokens if stats.kv_capacity_tokens else 0.0
        gauges = [
            ("num_requests_running", "Choices being generated.", stats.num_running),
            ("num_requests_waiting", "Choices waiting for a slot.", stats.num_waiting),
            ("num_request_max", "Choices that can be generated at once.", stats.num_slots),
            ("gpu_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", used),
        ]
        counters = [
            ("prefix_cache_queries", "Prompt tokens looked up in the cache.", stats.prefix_query_tokens),
            ("prefix_cache_hits", "Prompt tokens found in the cache.", stats.prefix_hit_tokens),
            ("spec_decode_num_draft_tokens", "Tokens guessed by prompt lookup.", stats.drafted_tokens),
            ("spec_decode_num_accepted_tokens", "Guessed tokens that were right.", stats.accepted_tokens),
        ]
        steps = [
            ("engine_steps", "Steps of the engine.", stats.num_steps),
            ("engine_step_tokens", "Prompt and generated tokens of all steps, cached ones too.", stats.step_tokens[1]),
            ("engine_run_seconds", "Time that steps spent in the backend.", stats.run_ns / 1e9),
        ]
        if self._vllm_names:
            gauges += [
                ("vllm:num_requests_running", "Choices being generated.", stats.num_running),
                ("vllm:num_requests_waiting", "Choices waiting for a slot.", stats.num_waiting),
                ("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", used),
            ]
            counters += [(f"vllm:{name}", help_text, value) for name, help_text, value in counters]
            counters.append(("vllm:num_preemptions", "Running choices sent back to wait: never.", 0))
            yield _cache_config(model_name, stats)
            yield _step_tokens(model_name, stats)
        for kind, families in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters + steps)):
            for name, help_text, value in families:
                family = kind(name, help_text, labels=["model_name"])
                family.add_metric([model_name], value)
                yield family


class _GpuGauges(Collector):
    """The GPU by the names that Triton gives it; only what was read, and lately."""

    def __init__(self, model_name: str, watch: GpuWatch) -> None:
        self._labels = {"model_name": model_name, "gpu_uuid": watch.uuid}
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        reading = self._watch.latest()
        for name, help_text, value in (
            ("nv_gpu_memory_used_bytes", "GPU memory in use, by whomever.", reading.used_bytes),
            ("nv_gpu_memory_total_bytes", "GPU memory.", reading.total_bytes),
            ("nv_gpu_utilization", "Share of time in which the GPU ran a kernel, 0 to 1.", reading.utilization),
        ):
            if value is not None:
                family = GaugeMetricFamily(name, help_text, labels=list(self._labels))
                family.add_metric(list(self._labels.values()), value)
                yield family


def _cache_config(model_name: str, stats: EngineStats) -> Metric:
    """vLLM's description of the cache: ``num_gpu_blocks * block_size`` is its capacity; a slot is one block here."""
    labels = {
        "model_name": model_name,
        "num_gpu_blocks": str(stats.num_slots),
        "block_size": str(stats.kv_capacity_tokens // stats.num_slots if stats.num_slots else 0),
    }
    family = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's dimensions.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _step_tokens(model_name: str, stats: EngineStats) -> Metric:
    counts, total = stats.step_tokens
    family = HistogramMetricFamily(
        "vllm:iteration_tokens_total", "Prompt and generated tokens per step.", labels=["model_name"]
    )
    bounds = [*(str(float(bound)) for bound in STEP_TOKEN_BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts or (0,) * len(bounds)), strict=True))
    family.add_metric([model_name], buckets, total)
    return family
