"""What `powertrain bench suite` does: the package in process, then its own server over HTTP, then the tables.

Starts the package's server in a process of its own, so that it and the client do not share an interpreter.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError
from runtime.package.manifest import read_manifest

from bench.commands.engine import engine_command
from bench.commands.http import http_command
from bench.commands.written import say_written
from bench.http.server_process import free_port, own_server, running_server
from bench.in_process.engine_report import load_engine_report, speed_table
from bench.report.exports import write_whole
from bench.report.results import load_report
from bench.report.tables import machine_line, sweep_table

_LOAD = ("--concurrency", "1,4,16", "--request-count", "32", "--cooldown-request-count", "16")
_REQUEST = ("--prompt-tokens", "130", "--output-tokens", "64", "--ignore-eos", "--warmup-request-count", "2")
_ENGINE = ("--prefill", "128,512", "--decode", "32", "--batch", "1,4,16", "--repetitions", "5")
_SHORT_LOAD = ("--concurrency", "1,4", "--request-count", "4")
_SHORT_ENGINE = ("--prefill", "128", "--decode", "8", "--batch", "1,4", "--repetitions", "2", "--breakdown-steps", "5")


def run_suite(package: Path, output: Path, *, short: bool, markdown: bool) -> None:
    """Measure into a folder of its own below ``output``; if ``short`` too little to compare. A failure is one line."""
    console = Console(stderr=True)
    folder = output / time.strftime("%Y%m%d-%H%M%S")
    try:
        console.print("runtime in process", highlight=False)
        _quietly(engine_command, [str(package), *(_SHORT_ENGINE if short else _ENGINE), "-o", str(folder)], markdown)
        console.print("served over HTTP: 130 prompt tokens, 64 output tokens", highlight=False)
        port = free_port()
        server = own_server(package, port)
        with running_server(server, port, "/health/ready") as url:
            words = [
                url,
                "--model",
                read_manifest(package).served_names[0],
                *(_SHORT_LOAD if short else _LOAD),
                *_REQUEST,
                "--tokenizer",
                str(package),
                "-o",
                str(folder),
            ]
            _quietly(
                http_command,
                [*words, "--title", f"{package.name}, served{', too shortly to compare' if short else ''}"],
                markdown,
            )
        tables = _readme_tables(folder)
        write_whole(folder / "readme.md", tables.encode())
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if markdown:
        sys.stdout.write(tables)
    say_written(folder / "readme.md")
    console.print(f"the page to look at is {folder / 'report.html'}", highlight=False, soft_wrap=True)


def _quietly(command: click.Command, words: list[str], quiet: bool) -> None:
    """Run one of the room's own commands in this process, with its printing switched off if ``quiet``."""
    with redirect_stdout(StringIO()) if quiet else nullcontext():
        command.main(words, standalone_mode=False)


def _readme_tables(folder: Path) -> str:
    report = load_report(folder / "report.json")
    engine = load_engine_report(folder / "engine.json")
    parts = (sweep_table(report.points).markdown(), speed_table(engine).markdown(), machine_line(report.environment))
    return "\n".join(parts) + "\n"
