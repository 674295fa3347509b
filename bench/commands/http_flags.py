"""What the flags of `bench http` and `bench compare` mean: text in, load plans and workloads out.

Contradictions are refused here. The options themselves stand in bench/commands/http_options.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.errors import BenchError
from bench.http.arrivals import ArrivalPattern, Arrivals
from bench.http.http_bench import NamedLoad
from bench.http.lengths import parse_lengths
from bench.http.load import LoadPlan, Probe
from bench.http.tokens import TextMaker, TokenCounter, synthetic_text, text_of_file
from bench.http.workload import GeneratedWorkload, Workload, recorded_chats, recorded_trace
from bench.metrics.slo import Objective, parse_objectives, preset

_OUTPUT_TOKENS = "64"
"""Answers of synthetic prompts, where nothing else is asked for."""


class HttpFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The shared flags as given; one field per option of bench/commands/http_options.py."""

    model: tuple[str, ...]
    concurrency: str | None
    request_rate: str | None
    arrival_pattern: str
    burstiness: float
    max_concurrency: int | None
    ramp_up: float
    request_count: int | None
    benchmark_duration: float | None
    benchmark_grace_period: float
    warmup_request_count: int
    cooldown_request_count: int
    prompt_tokens: str
    output_tokens: str | None
    prompt_file: Path | None
    chats: Path | None
    trace: Path | None
    trace_speedup: float
    turns: int
    think_time: float
    shared_prefix_tokens: int
    shared_prefix_share: float
    tokenizer: Path | None
    ignore_eos: bool
    temperature: float | None
    no_temperature: bool
    usage: bool
    continuous_usage: bool
    extra_body: str | None
    api_key_file: Path | None
    header: tuple[str, ...]
    timeout: float
    request_cancellation_rate: float
    request_cancellation_delay: float
    max_errors: int | None
    server_metrics: bool
    goodput: str | None
    slo: str | None
    stall_probe_tokens: int
    stall_probe_interval: float
    seed: int
    repeats: int
    connection_reuse: bool
    insecure: bool
    percentile_metrics: str | None
    metric_percentiles: str | None
    output: Path | None
    output_format: str
    plots: bool
    explain: bool
    title: str | None


def flags_from(values: dict[str, Any]) -> HttpFlags:
    """The options of a click command as one typed value; the output format defaults to ``table``."""
    return HttpFlags(**{**values, "output_format": values["output_format"] or "table"})


def loads_from(flags: HttpFlags, text: TextMaker) -> list[NamedLoad]:
    """One load per entry of --concurrency or --request-rate, or one for a trace. Raises BenchError."""
    _refuse_contradictions(flags)
    if flags.trace is not None:
        return [NamedLoad("trace", _plan(flags, text, count=flags.request_count))]
    if flags.request_rate is not None:
        return [_open_load(flags, text, rate) for rate in _numbers(flags.request_rate, "--request-rate")]
    loads = []
    for value in _numbers(flags.concurrency or "1", "--concurrency"):
        if value != int(value):
            raise BenchError(f"--concurrency {value:g} is not a whole number")
        count = flags.request_count or (None if flags.benchmark_duration else max(20, 4 * int(value)))
        loads.append(NamedLoad(f"concurrency {value:g}", _plan(flags, text, count=count, concurrency=int(value))))
    return loads


def _open_load(flags: HttpFlags, text: TextMaker, rate: float) -> NamedLoad:
    arrivals = Arrivals(
        pattern=ArrivalPattern(flags.arrival_pattern),
        rate_per_s=rate,
        burstiness=flags.burstiness,
        ramp_s=flags.ramp_up,
    )
    count = flags.request_count or (None if flags.benchmark_duration else max(20, round(rate * 10)))
    return NamedLoad(f"{rate:g} req/s {flags.arrival_pattern}", _plan(flags, text, count=count, arrivals=arrivals))


def _plan(
    flags: HttpFlags,
    text: TextMaker,
    *,
    count: int | None,
    concurrency: int | None = None,
    arrivals: Arrivals | None = None,
) -> LoadPlan:
    probe = None
    if flags.stall_probe_tokens:
        made = text.text(flags.stall_probe_tokens, np.random.default_rng([flags.seed, 2]))
        probe = Probe(made, flags.stall_probe_interval)
    return LoadPlan(
        concurrency=concurrency,
        arrivals=arrivals,
        request_count=count,
        duration_s=flags.benchmark_duration,
        grace_s=flags.benchmark_grace_period,
        ramp_s=flags.ramp_up,
        warmup_count=0 if flags.trace else flags.warmup_request_count,
        cooldown_count=flags.cooldown_request_count,
        max_concurrency=flags.max_concurrency,
        cancel_share=flags.request_cancellation_rate / 100.0,
        cancel_after_s=flags.request_cancellation_delay,
        timeout_s=flags.timeout,
        max_errors=flags.max_errors,
        probe=probe,
        seed=flags.seed,
    )


def _refuse_contradictions(flags: HttpFlags) -> None:
    given = [name for name in ("concurrency", "request_rate", "trace") if getattr(flags, name) is not None]
    sources = [name for name in ("prompt_file", "chats", "trace") if getattr(flags, name) is not None]
    rules = (
        (len(given) > 1, f"{_flag_list(given)} exclude each other: choose closed loop, open loop or trace"),
        (len(sources) > 1, f"{_flag_list(sources)} exclude each other: choose one source of prompts"),
        (flags.max_concurrency and flags.concurrency, "--max-concurrency bounds an open loop; use --concurrency alone"),
        (flags.goodput and flags.slo, "--goodput and --slo exclude each other"),
        (flags.burstiness != 1.0 and flags.arrival_pattern != "gamma", "--burstiness needs --arrival-pattern gamma"),
        (
            flags.cooldown_request_count and flags.request_count is None and flags.benchmark_duration is not None,
            "--cooldown-request-count needs --request-count; a duration has no last request to keep company",
        ),
        (flags.continuous_usage and not flags.usage, "--continuous-usage needs --usage"),
        (flags.trace and flags.warmup_request_count, "a trace is replayed as recorded: no --warmup-request-count"),
        (flags.request_cancellation_delay and not flags.request_cancellation_rate,
         "--request-cancellation-delay needs --request-cancellation-rate"),
        (flags.plots and flags.output is None, "--plots needs --output"),
        (flags.turns > 1 and flags.trace, "--turns does not apply to a trace"),
    )  # fmt: skip
    for broken, message in rules:
        if broken:
            raise BenchError(message)


def _flag_list(names: list[str]) -> str:
    return " and ".join("--" + name.replace("_", "-") for name in names)


def _numbers(text: str, flag: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or any(not 0 < value < 1e6 for value in values):
        raise BenchError(f"{flag} {text!r} is not a positive number or a list of them such as 1,4,16")
    return values


def text_from(flags: HttpFlags, counter: TokenCounter) -> TextMaker:
    """Where prompt texts come from. Raises BenchError."""
    return text_of_file(flags.prompt_file, counter) if flags.prompt_file else synthetic_text(counter)


def workload_from(flags: HttpFlags, text: TextMaker) -> Workload:
    """What is asked. Raises BenchError."""
    rng = np.random.default_rng([flags.seed, 3])
    outputs = parse_lengths(flags.output_tokens) if flags.output_tokens else None
    if flags.trace is not None:
        return recorded_trace(flags.trace, text, flags.trace_speedup, rng)
    if flags.chats is not None:
        return recorded_chats(flags.chats, text.counter, outputs, flags.turns, rng)
    return GeneratedWorkload(
        text=text,
        prompt_tokens=parse_lengths(flags.prompt_tokens),
        output_tokens=outputs or parse_lengths(_OUTPUT_TOKENS),
        num_turns=flags.turns,
        think_s=flags.think_time,
        prefix_tokens=flags.shared_prefix_tokens,
        prefix_share=flags.shared_prefix_share,
    )


def lengths_from(flags: HttpFlags) -> tuple[str, str]:
    """Which lengths of prompts and answers are asked for, as a person writes them: ``128 + 1000 shared``, ``64``."""
    if flags.chats is not None or flags.trace is not None:
        return "as recorded", flags.output_tokens or "as recorded"
    prompt = flags.prompt_tokens
    if flags.shared_prefix_tokens:
        prompt += f" + {flags.shared_prefix_tokens} shared"
    return prompt, flags.output_tokens or _OUTPUT_TOKENS


def objectives_from(flags: HttpFlags) -> tuple[Objective, ...]:
    """The objectives of --goodput or --slo; none without either."""
    if flags.slo:
        return preset(flags.slo)
    return parse_objectives(flags.goodput) if flags.goodput else ()
