"""What `powertrain bench http` and `compare` do: flags to benchmark, benchmark to tables and files."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError
from runtime.unwritten import why_unwritten

from bench.commands.http_flags import HttpFlags, lengths_from, loads_from, objectives_from, text_from, workload_from
from bench.commands.written import say_written
from bench.environment import environment
from bench.errors import BenchError
from bench.http.endpoint import ChatOptions, Endpoint, endpoint_from_url
from bench.http.http_bench import HttpBench, Target
from bench.http.http_client import HttpClient, socket_dial
from bench.http.live import LiveProgress
from bench.http.preflight import choose_model, preflight
from bench.http.tokens import load_counter
from bench.metrics.catalog import BY_KEY, METRICS, explain
from bench.metrics.records import RequestRecord
from bench.report.exports import check_writable, points_csv, report_json, report_markdown, requests_jsonl, write_whole
from bench.report.html_report import report_html
from bench.report.plots import write_plots
from bench.report.results import Point, Report, new_report
from bench.report.tables import (
    DEFAULT_METRICS,
    DEFAULT_STATISTICS,
    checks_table,
    compare_table,
    latency_table,
    machine_line,
    report_console,
    stalls_table,
    sweep_table,
    totals_table,
)


def run_command(urls: Sequence[str], flags: HttpFlags) -> None:
    """Measure, write what was asked for, print the tables. A failure is one line."""
    try:
        check_writable(flags.output)
        report, records = _measure(urls, flags)
        written = _write(report, records, flags)
        _print(report, flags)
        say_written(*written)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if not any(run.measurement.outcomes["ok"] for point in report.points for run in point.runs):
        raise click.ClickException("no request succeeded; see the errors above")


def _measure(urls: Sequence[str], flags: HttpFlags) -> tuple[Report, list[tuple[str, str, int, RequestRecord]]]:
    counter = load_counter(flags.tokenizer)
    text = text_from(flags, counter)
    loads, workload, objectives = loads_from(flags, text), workload_from(flags, text), objectives_from(flags)
    if flags.metric_percentiles or flags.percentile_metrics:
        _table_shape(flags)
    endpoints = [_endpoint(url, flags) for url in urls]
    options = _chat_options(flags)
    if len({endpoint.label for endpoint in endpoints}) < len(endpoints):
        raise BenchError("two endpoints have the same label; name them LABEL=URL")
    isl, osl = lengths_from(flags)
    console = Console(stderr=True)
    with asyncio.Runner() as loop:
        targets = loop.run(_targets(endpoints, options, flags))
        bench = HttpBench(
            targets=targets,
            loads=loads,
            workload=workload,
            counter=counter,
            objectives=objectives,
            repeats=flags.repeats,
            reuse_connections=flags.connection_reuse,
            verify_tls=not flags.insecure,
            server_metrics=flags.server_metrics,
            isl=isl,
            osl=osl,
        )
        block = environment()
        with LiveProgress(console) as live:
            points = loop.run(bench.run(live))
    title = flags.title or f"Chat latency of {' and '.join(target.endpoint.label for target in targets)}"
    return new_report(title, _settings(flags), block, points), live.records


def _endpoint(text: str, flags: HttpFlags) -> Endpoint:
    label, separator, url = text.partition("=")
    if not separator or "/" in label:
        label, url = "", text
    headers = []
    for header in flags.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise BenchError(f"header {header!r} is not 'Name: value'")
        headers.append((name.strip(), value.strip()))
    if flags.api_key_file is not None:
        try:
            key = flags.api_key_file.read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except OSError as error:
            raise BenchError(f"cannot read the API key file: {error.strerror}") from error
        headers.append(("Authorization", f"Bearer {key}"))
    return endpoint_from_url(url, label=label or None, headers=tuple(headers))


async def _targets(endpoints: Sequence[Endpoint], options: ChatOptions, flags: HttpFlags) -> list[Target]:
    """Check each endpoint and settle its model before anything is measured."""
    if len(flags.model) not in {0, 1, len(endpoints)}:
        raise BenchError(f"{len(flags.model)} models for {len(endpoints)} endpoints; give --model once, or for each")
    targets = []
    for number, endpoint in enumerate(endpoints):
        wanted = None if not flags.model else flags.model[number if len(flags.model) > 1 else 0]
        client = HttpClient(endpoint, socket_dial(endpoint, verify_tls=not flags.insecure), time.perf_counter_ns)
        try:
            chosen = replace(options, model=await choose_model(client, wanted))
            await preflight(client, chosen, flags.timeout)
        finally:
            await client.close()
        targets.append(Target(endpoint, chosen))
    return targets


def _chat_options(flags: HttpFlags) -> ChatOptions:
    extra: dict[str, object] = {}
    if flags.extra_body:
        try:
            extra = msgspec.json.decode(flags.extra_body, type=dict[str, object])
        except msgspec.MsgspecError as error:
            raise BenchError(f"--extra-body is not a JSON object: {error}") from error
    return ChatOptions(
        model="",
        temperature=None if flags.no_temperature else flags.temperature,
        ignore_eos=flags.ignore_eos,
        usage=flags.usage,
        continuous_usage=flags.continuous_usage,
        extra=extra,
    )


def _settings(flags: HttpFlags) -> dict[str, Any]:
    """The flags as given, without secrets and paths: what a reader needs to run it again."""
    hidden = {"api_key_file", "header", "output", "output_format"}
    values = {name: getattr(flags, name) for name in flags.__struct_fields__ if name not in hidden}
    named = {name: value.name if hasattr(value, "name") else value for name, value in values.items()}
    return {name: value for name, value in named.items() if value not in (None, False, "", ())}


def _table_shape(flags: HttpFlags) -> tuple[tuple[str, ...], tuple[str, ...]]:
    metrics: tuple[str, ...] = DEFAULT_METRICS
    statistics: tuple[str, ...] = DEFAULT_STATISTICS
    if flags.percentile_metrics:
        metrics = tuple({"e2el": "request_latency"}.get(key, key) for key in flags.percentile_metrics.split(","))
    if flags.metric_percentiles:
        parts = flags.metric_percentiles.split(",")
        statistics = tuple(f"p{part}" if part[:1].isdigit() else part for part in parts)
    known = {"mean", "std", "min", "max", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9"}
    if bad := [key for key in metrics if key not in BY_KEY] + [name for name in statistics if name not in known]:
        raise BenchError(f"unknown metric or statistic {', '.join(bad)}; metrics: {', '.join(BY_KEY)}")
    return metrics, statistics


def _write(report: Report, records: list[tuple[str, str, int, RequestRecord]], flags: HttpFlags) -> list[Path]:
    """Write the report in every form into the folder of --output, if there is one. The files, in order."""
    folder = flags.output
    if folder is None:
        return []
    forms = {
        "report.json": report_json(report),
        "requests.jsonl": requests_jsonl(records),
        "report.csv": points_csv(report.points),
        "report.html": report_html(report).encode(),
        "report.md": report_markdown(report, definitions=True).encode(),
    }
    for name, data in forms.items():
        write_whole(folder / name, data)
    try:
        plots = write_plots(report, folder) if flags.plots else []
    except OSError as error:
        raise BenchError(f"cannot write plots in {folder}: {why_unwritten(error, folder)}") from error
    return [*(folder / name for name in forms), *plots]


def _print(report: Report, flags: HttpFlags) -> None:
    if flags.output_format == "json":
        sys.stdout.buffer.write(report_json(report))
        return
    if flags.output_format == "markdown":
        sys.stdout.write(report_markdown(report, definitions=flags.explain))
        return
    console = report_console()
    if len(report.points) > 1:
        console.print(sweep_table(report.points).rich())
    if (compared := compare_table(report.points)) is not None:
        console.print(compared.rich())
    for point in report.points:
        _print_point(console, point, flags)
    console.print(machine_line(report.environment), highlight=False)
    if flags.explain:
        print_formulas(console)


def _print_point(console: Console, point: Point, flags: HttpFlags) -> None:
    metrics, statistics = _table_shape(flags)
    for table in (
        latency_table(point, metrics, statistics),
        totals_table(point),
        stalls_table(point),
        checks_table(point),
    ):
        if table is not None:
            console.print(table.rich())
    for run in point.runs:
        for kind, count in run.measurement.errors.items():
            console.print(
                f"[red]{count} failed with {kind}:[/red] {run.measurement.error_examples[kind]}", highlight=False
            )
        if run.stop_reason is not None:
            console.print(f"[yellow]Partial results: {run.stop_reason}.[/yellow]")


def print_formulas(console: Console) -> None:
    """Every metric's formula."""
    for metric in METRICS:
        console.print(explain(metric), highlight=False, markup=False)
