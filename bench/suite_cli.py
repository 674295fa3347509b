"""`powertrain bench suite`: the short standard measurement of a package, the one that the README's table comes from.

Starts the package's server in a process of its own, so that it and the client do not share an interpreter.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError
from runtime.manifest import read_manifest

from bench.endpoint import endpoint_from_url
from bench.engine_cli import engine_command
from bench.engine_report import load_engine_report, speed_table
from bench.errors import BenchError, StreamError
from bench.exports import write_whole
from bench.http_cli import http_command
from bench.http_client import HttpClient, socket_dial
from bench.results import load_report
from bench.tables import sweep_table

DEFAULT_FOLDER = Path("bench/results")
_READY_WITHIN_S = 120.0
_POLL_S = 0.2
_LOAD = ("--concurrency", "1,4,16", "--request-count", "32", "--cooldown-request-count", "16")
_REQUEST = ("--prompt-tokens", "130", "--output-tokens", "64", "--ignore-eos", "--warmup-request-count", "2")
_ENGINE = ("--prefill", "128,512", "--decode", "32", "--batch", "1,4,16", "--repetitions", "5")


@click.command("suite")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--output-dir", "-o", type=click.Path(path_type=Path), default=DEFAULT_FOLDER, show_default=True)
@click.option("--markdown", is_flag=True, help="Print the README's tables and nothing else.")
def suite_command(package: Path, output_dir: Path, *, markdown: bool) -> None:
    """Measure PACKAGE in process and through its own HTTP server; takes about three minutes."""
    console = Console(stderr=True)
    folder = output_dir / time.strftime("%Y%m%d-%H%M%S")
    try:
        console.print("runtime in process", highlight=False)
        _quietly(engine_command, [str(package), *_ENGINE, "-o", str(folder / "engine.json")], markdown)
        console.print("served over HTTP: 130 prompt tokens, 64 output tokens", highlight=False)
        with _server(package) as url:
            words = [
                url,
                "--model",
                read_manifest(package).served_names[0],
                *_LOAD,
                *_REQUEST,
                "--tokenizer",
                str(package),
                "-o",
                str(folder),
            ]
            _quietly(http_command, [*words, "--title", f"{package.name}, served"], markdown)
        tables = _readme_tables(folder)
        write_whole(folder / "readme.md", tables.encode())
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if markdown:
        sys.stdout.write(tables)
    console.print(f"results in {folder}; the page to look at is {folder / 'report.html'}", highlight=False)


def _quietly(command: click.Command, words: list[str], quiet: bool) -> None:
    """Run one of the room's own commands in this process, with its printing switched off if ``quiet``."""
    with redirect_stdout(StringIO()) if quiet else nullcontext():
        command.main(words, standalone_mode=False)


@contextmanager
def _server(package: Path) -> Iterator[str]:
    """The package's server on a free port of this machine, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "powertrain", "serve", str(package), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and fixed words
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        asyncio.run(_until_ready(url, process))
        yield url
    finally:
        process.terminate()
        process.communicate()


async def _until_ready(url: str, process: subprocess.Popen[str]) -> None:
    endpoint = endpoint_from_url(url)
    client = HttpClient(endpoint, socket_dial(endpoint), time.perf_counter_ns, reuse=False)
    give_up = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            lines = (process.stderr.read() if process.stderr is not None else "").strip().splitlines()
            raise BenchError(f"the server ended with code {process.returncode}: {lines[-1] if lines else 'no message'}")
        try:
            status, _ = await client.get("/health/ready")
        except StreamError:
            status = 0
        if status == 200:
            return
        await asyncio.sleep(_POLL_S)
    raise BenchError(f"the server was not ready within {_READY_WITHIN_S:.0f} s")


def _readme_tables(folder: Path) -> str:
    report = load_report(folder / "report.json")
    engine = load_engine_report(folder / "engine.json")
    block = report.environment
    machine = (
        f"Measured on {block['cpu']}, {block['cores']} cores, {block['system']}, powertrain {block['powertrain']}."
    )
    return f"{sweep_table(report.points).markdown()}\n{speed_table(engine).markdown()}\n{machine}\n"
