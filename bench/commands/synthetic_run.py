"""What `powertrain bench engine --synthetic` does: the engine's own work over a session of zero compute."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from bench.commands.written import say_written
from bench.environment import environment
from bench.in_process.engine_speed import parse_counts
from bench.in_process.synthetic_report import (
    SCHEMA,
    SCHEMA_VERSION,
    SyntheticReport,
    judge_steps,
    load_synthetic_report,
    steps_table,
    streams_table,
)
from bench.in_process.synthetic_speed import CHOSEN_KINDS, KINDS, STREAM_KINDS, measure_step, measure_streams
from bench.report.exports import check_writable, write_whole
from bench.report.tables import report_console

RESULT_FILE = "engine-synthetic.json"
DEFAULT_BATCHES = "1,16,64,256"
DEFAULT_STEPS = 20
_STREAMS = 64
_TOKENS_PER_STEP = 20
"""Tokens that each stream of the throughput test gets, per measured step of the others."""


class SyntheticFlags(msgspec.Struct, frozen=True):
    """The options that count for this mode."""

    vocab: str
    batch: str
    steps: int
    output: Path | None
    baseline: Path | None
    threshold: float
    output_format: str | None


def run_synthetic(flags: SyntheticFlags) -> bool:
    """Measure, write and print; True when a step is slower than the baseline's. Raises BenchError and OSError."""
    baseline = load_synthetic_report(flags.baseline) if flags.baseline else None
    check_writable(flags.output)
    console = Console(stderr=True)
    with console.status("starting") as status:
        report = _measure(flags, status.update)
    if flags.output is not None:
        path = flags.output / RESULT_FILE
        write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        say_written(path)
    tables, is_slower = [steps_table(report), streams_table(report)], False
    if baseline is not None:
        table, is_slower = judge_steps(report, baseline, flags.threshold)
        tables.append(table)
    if flags.output_format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    elif flags.output_format == "markdown":
        sys.stdout.write("\n".join(table.markdown() for table in tables))
    else:
        for table in tables:
            report_console().print(table.rich())
    return is_slower


def _measure(flags: SyntheticFlags, show: Callable[[str], None]) -> SyntheticReport:
    vocab_sizes, batches = parse_counts(flags.vocab, "--vocab", lowest=2), parse_counts(flags.batch, "--batch")
    steps, streams = [], []
    for vocab_size in vocab_sizes:
        for batch in batches:
            for name in KINDS:
                show(f"vocabulary {vocab_size}, batch {batch}, {name}")
                steps.append(measure_step(vocab_size, batch, name, flags.steps))
            for name in CHOSEN_KINDS:
                show(f"vocabulary {vocab_size}, batch {batch}, {name}, chosen by the session")
                steps.append(measure_step(vocab_size, batch, name, flags.steps, on_device=True))
        for name, on_device in ((name, on_device) for name in STREAM_KINDS for on_device in (False, True)):
            show(f"vocabulary {vocab_size}, {_STREAMS} streams, {name}")
            tokens_each = _TOKENS_PER_STEP * flags.steps
            streams.append(measure_streams(vocab_size, _STREAMS, name, tokens_each, on_device=on_device))
    return SyntheticReport(SCHEMA, SCHEMA_VERSION, steps, streams, environment())
