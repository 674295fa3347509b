"""What `powertrain bench engine` does: a package's runtime measured in process, its tables and its file."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import msgspec
import rich_click as click
from runtime.errors import PowertrainError
from runtime.loading.backend import Backend, backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.model_loader import ModelOptions, default_threads
from runtime.package.manifest import ORT_GRAPH, Package, load_package
from runtime.session.session import Session, SessionInfo
from runtime.token_mask import Constraint

from bench.commands.progress import progress
from bench.commands.synthetic_run import DEFAULT_BATCHES, DEFAULT_STEPS, SyntheticFlags, run_synthetic
from bench.commands.written import say_written
from bench.environment import environment
from bench.errors import BenchError
from bench.in_process.bandwidth import read_bandwidth
from bench.in_process.engine_breakdown import SAMPLINGS, measure_breakdown
from bench.in_process.engine_report import (
    SCHEMA,
    SCHEMA_VERSION,
    Breakdown,
    EngineReport,
    breakdown_table,
    judge,
    load_engine_report,
    memory_table,
    speed_table,
    verdict_table,
)
from bench.in_process.engine_speed import SpeedPlan, measure_speed, parse_counts
from bench.in_process.made_up_adapters import made_up_adapters
from bench.in_process.schema_constraint import schema_constraint
from bench.in_process.schema_cost import measure_schema_cost, tokens_needed
from bench.in_process.schema_report import SchemaCost, schema_table
from bench.report.exports import check_writable, write_whole
from bench.report.tables import report_console

EXIT_REGRESSION = 3
_BATCHES = "1,4,16"
_BREAKDOWN_STEPS = 60
RESULT_FILE = "engine.json"


class EngineFlags(msgspec.Struct, frozen=True):
    """The options of the command as given; one field per option."""

    prefill: str
    decode: int
    depth: str
    batch: str | None
    adapters: str | None
    repetitions: int
    chunk: int
    backend: str
    threads: int | None
    decode_thread: bool
    slots: int | None
    max_model_len: int | None
    breakdown: bool
    breakdown_steps: int | None
    schema: bool
    synthetic: bool
    vocab: str
    output: Path | None
    baseline: Path | None
    threshold: float
    output_format: str | None


def run_engine(package: Path | None, flags: EngineFlags) -> None:
    """Measure, write and print. Ends the process with ``EXIT_REGRESSION`` when it is slower than the baseline.

    ``package`` is None with ``flags.synthetic``, and only then.
    """
    if (package is None) != flags.synthetic:
        raise click.UsageError("name a MODEL to measure, or give --synthetic, which measures the engine without one")
    try:
        regressed = run_synthetic(_synthetic(flags)) if package is None else _run_package(package, flags)
    except OSError as error:
        raise click.ClickException(f"cannot write the result: {error.strerror}") from error
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if regressed:
        sys.exit(EXIT_REGRESSION)


def _run_package(package: Path, flags: EngineFlags) -> bool:
    baseline = load_engine_report(flags.baseline) if flags.baseline else None
    check_writable(flags.output)
    report = _measure(package, flags)
    if flags.output is not None:
        path = flags.output / RESULT_FILE
        write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        say_written(path)
    return _print(report, baseline, flags)


def _synthetic(flags: EngineFlags) -> SyntheticFlags:
    return SyntheticFlags(
        vocab=flags.vocab,
        batch=flags.batch or DEFAULT_BATCHES,
        steps=flags.breakdown_steps or DEFAULT_STEPS,
        output=flags.output,
        baseline=flags.baseline,
        threshold=flags.threshold,
        output_format=flags.output_format,
    )


def _measure(path: Path, flags: EngineFlags) -> EngineReport:
    package = load_package(path)
    graph = package.manifest.graphs.get(ORT_GRAPH)
    if graph is None:
        raise BenchError(f"package {package.manifest.name!r} holds no ONNX Runtime graph")
    plan = SpeedPlan(
        prefill_tokens=parse_counts(flags.prefill, "--prefill"),
        decode_tokens=flags.decode,
        depths=parse_counts(flags.depth, "--depth", lowest=0),
        batches=parse_counts(flags.batch or _BATCHES, "--batch"),
        repetitions=flags.repetitions,
        chunk_tokens=flags.chunk,
        adapters=parse_counts(flags.adapters, "--adapters") if flags.adapters else (),
    )
    adapters = made_up_adapters(package, max(plan.adapters, default=0))
    threads = flags.threads or default_threads()
    slots = flags.slots or max(plan.batches)
    options = ModelOptions(
        num_slots=slots,
        max_model_len=_slot_tokens(flags, plan),
        threads=threads,
        decode_thread=flags.decode_thread,
    )
    loader = _loader(package, options, flags)
    is_on_cpu = loader.backend.backend is Backend.CPU
    bandwidth = read_bandwidth(threads)
    begin = time.perf_counter()
    session = loader.build()
    load_s = time.perf_counter() - begin
    with progress() as show, closing(session), schema_constraint(package) if flags.schema else nullcontext() as bound:
        speeds = measure_speed(session, plan, graph.weight_bytes, bandwidth, show, adapters=adapters)
        if not is_on_cpu:  # a GPU reads its own memory, whose speed is not measured
            speeds = [msgspec.structs.replace(speed, bandwidth_share=None) for speed in speeds]
        breakdowns = _breakdowns(session, plan.batches, flags, bound, show)
        costs: list[SchemaCost] = []
        if bound is not None and flags.breakdown:
            with closing(_loader(package, options, flags).build()) as second:
                costs = _schema_costs((session, second), plan.batches, _steps(flags), bound, show)
    return EngineReport(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        model=package.manifest.name,
        graph_sha256=package.manifest.files[graph.path].sha256,
        threads=threads,
        weight_bytes=graph.weight_bytes,
        kv_bytes_per_token=loader.kv.bytes_per_token,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        load_s=load_s,
        read_bandwidth=bandwidth,
        speeds=speeds,
        breakdowns=breakdowns,
        environment=environment() | how_it_ran(session.info, decode_thread=flags.decode_thread),
        schema_costs=costs,
    )


def how_it_ran(info: SessionInfo, *, decode_thread: bool) -> dict[str, str]:
    """What differs from steps of a CPU one after the other, for the report."""
    backend = {} if info.backend == Backend.CPU else {"backend": info.backend}
    return backend | ({"decode_thread": "on"} if decode_thread else {})


def _loader(package: Package, options: ModelOptions, flags: EngineFlags) -> FirstThatLoads:
    return FirstThatLoads(package, options, backend_choices(package, flags.backend))


def _breakdowns(
    session: Session,
    batches: tuple[int, ...],
    flags: EngineFlags,
    constraint: Constraint | None,
    show: Callable[[str], None],
) -> list[Breakdown]:
    """Steps of each batch with each sampling; with a constraint those under it come right after those without."""
    if not flags.breakdown:
        return []
    steps = _steps(flags)
    found = []
    for batch in batches:
        for sampling in SAMPLINGS:
            for bound in (None,) if constraint is None else (None, constraint):
                show(f"step of batch {batch}, {sampling}{', schema' if bound else ''}")
                found.append(measure_breakdown(session, batch, sampling, steps, bound))
    return found


def _schema_costs(
    sessions: tuple[Session, Session],
    batches: tuple[int, ...],
    steps: int,
    constraint: Constraint,
    show: Callable[[str], None],
) -> list[SchemaCost]:
    """Steps with and without the constraint in turns, over two sessions, for each batch and sampling."""
    found = []
    for batch in batches:
        for sampling in SAMPLINGS:
            show(f"batch {batch}, {sampling}, with and without a schema in turns")
            found.append(measure_schema_cost(sessions, batch, sampling, constraint, num_steps=steps))
    return found


def _steps(flags: EngineFlags) -> int:
    """Steps of each test of whole steps."""
    return flags.breakdown_steps or _BREAKDOWN_STEPS


def _slot_tokens(flags: EngineFlags, plan: SpeedPlan) -> int:
    """Tokens per slot that the tests and the breakdown need."""
    if flags.max_model_len is not None:
        return flags.max_model_len
    tests = max(plan.depths) + max(*plan.prefill_tokens, plan.decode_tokens + 1)
    if not flags.breakdown:
        return tests
    steps, batch = _steps(flags), max(plan.batches)
    return max(tests, 192 + steps + 2 * batch, tokens_needed(batch, steps) if flags.schema else 0)


def _print(report: EngineReport, baseline: EngineReport | None, flags: EngineFlags) -> bool:
    """Print the result; True when a test is slower than the baseline beyond the threshold."""
    verdicts = judge(report, baseline, flags.threshold) if baseline is not None else []
    tables = [speed_table(report), memory_table(report)]
    if report.breakdowns:
        tables.append(breakdown_table(report))
    if report.schema_costs:
        tables.append(schema_table(report.schema_costs))
    if baseline is not None:
        tables.append(verdict_table(verdicts, report, baseline))
    if flags.output_format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    elif flags.output_format == "markdown":
        sys.stdout.write("\n".join(table.markdown() for table in tables))
    else:
        console = report_console()
        for table in tables:
            console.print(table.rich())
    return any(verdict.word == "slower" for verdict in verdicts)
