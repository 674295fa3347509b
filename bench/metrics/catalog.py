"""Every metric's name, unit, formula and direction: the one text behind ``--explain``, reports and documentation.

Computes nothing (``bench.metrics.metrics`` does, held to it by a test). Symbols: t_send request bytes written;
t_i arrival of the i-th chunk with text; n generated tokens (usage, else own count); T the measured window, from the
first t_send to the last t_last; t_last the arrival of the last chunk with text.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

FORMULA_VERSION = 1


class Scope(StrEnum):
    """What one value of a metric belongs to."""

    REQUEST = "per request"
    POOLED = "pooled over chunks"
    RUN = "per run"


class Better(StrEnum):
    """Which direction is an improvement."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = "neither"


class Metric(msgspec.Struct, frozen=True):
    """A metric's definition. ``note`` says what it leaves out or how other tools differ."""

    key: str
    title: str
    unit: str
    scope: Scope
    better: Better
    formula: str
    note: str = ""


_REQUEST, _POOLED, _RUN = Scope.REQUEST, Scope.POOLED, Scope.RUN
_LOW, _HIGH, _NONE = Better.LOWER, Better.HIGHER, Better.NEITHER

METRICS: tuple[Metric, ...] = (
    Metric("ttft", "Time to first token", "ms", _REQUEST, _LOW, "t_1 - t_send",
           "First chunk with answer or reasoning text; empty role chunks are ignored. Connecting is not in it."),
    Metric("ttfo", "Time to first answer token", "ms", _REQUEST, _LOW, "t_first_answer - t_send",
           "As TTFT, but reasoning text does not count."),
    Metric("ttst", "Time to second token", "ms", _REQUEST, _LOW, "t_2 - t_1", "Needs two chunks."),
    Metric("tpot", "Time per output token", "ms", _REQUEST, _LOW, "(E2EL - TTFT) / (n - 1)",
           "Needs n >= 2 and two chunks. AIPerf's inter-token latency; GuideLLM's TPOT includes the first token."),
    Metric("itl", "Inter-token latency", "ms", _POOLED, _LOW, "t_i - t_(i-1), every gap of every request in one pool",
           "The gap between chunks (AIPerf: inter-chunk latency, ICL). Long answers weigh more than in TPOT."),
    Metric("itl_per_token", "Inter-token latency per token", "ms", _POOLED, _LOW, "(t_i - t_(i-1)) / k_i, k_i times",
           "k_i tokens came in chunk i. Only where the endpoint reports running usage (--continuous-usage)."),
    Metric("request_latency", "Request latency (E2EL)", "ms", _REQUEST, _LOW, "t_last - t_send",
           "Ends at the last chunk with text; the usage chunk and [DONE] after it are not waited for."),
    Metric("request_latency_with_queue", "Latency with client queue", "ms", _REQUEST, _LOW, "t_last - t_scheduled",
           "What a user of an overloaded service sees; never hides behind a client that fell behind its schedule."),
    Metric("client_queue_time", "Client queue time", "ms", _REQUEST, _LOW, "t_send - t_scheduled",
           "Waiting inside this client: for a connection or for a place under --max-concurrency."),
    Metric("ntpot", "Normalised time per output token", "ms", _REQUEST, _LOW, "E2EL / n"),
    Metric("output_tps_per_user", "Output speed per user", "tok/s", _REQUEST, _HIGH, "1000 / TPOT"),
    Metric("prefill_tps", "Prefill speed", "tok/s", _REQUEST, _HIGH, "prompt_tokens / TTFT",
           "Includes queueing at the server. Prompt tokens as the endpoint's usage counts them, else as sent."),
    Metric("input_tokens", "Prompt tokens", "tok", _REQUEST, _NONE, "usage.prompt_tokens"),
    Metric("output_tokens", "Output tokens", "tok", _REQUEST, _NONE, "n = usage.completion_tokens, else own count"),
    Metric("tokens_per_chunk", "Tokens per chunk", "tok", _REQUEST, _NONE, "n / chunks with text",
           "Above 1 an endpoint batches tokens into chunks, and ITL is not per token."),
    Metric("output_tps", "Output throughput", "tok/s", _RUN, _HIGH, "tokens that arrived in the window / T",
           "Successful requests; of cool-down requests what arrived while measured ones ran."),
    Metric("total_tps", "Total throughput", "tok/s", _RUN, _HIGH, "(prompt tokens + output tokens in the window) / T"),
    Metric("request_tps", "Request throughput", "req/s", _RUN, _HIGH, "requests that ended in the window / T"),
    Metric("goodput", "Goodput", "req/s", _RUN, _HIGH, "req/s * requests that meet every objective / successful",
           "Failed requests are never good. Objectives by --goodput or --slo."),
    Metric("goodput_share", "Goodput share", "%", _RUN, _HIGH, "100 * good requests / (successful + failed)"),
    Metric("concurrency", "Mean concurrency", "req", _RUN, _NONE, "sum of time in flight within the window / T",
           "Little's law: equals request throughput times mean latency."),
    Metric("duration", "Measured window", "s", _RUN, _NONE, "T = max t_last - min t_send"),
)  # fmt: skip

BY_KEY: dict[str, Metric] = {metric.key: metric for metric in METRICS}


def explain(metric: Metric) -> str:
    """One paragraph that a person can check the number with."""
    text = f"{metric.key} [{metric.unit}] = {metric.formula} ({metric.scope.value})"
    return f"{text}. {metric.note}" if metric.note else text
