"""What `powertrain bench prove` does: the benchmark measured by its own yardstick, in simulated and in real time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import rich_click as click
from runtime.errors import PowertrainError

from bench.errors import BenchError
from bench.http.endpoint import ChatOptions, endpoint_from_url
from bench.http.http_bench import HttpBench, NamedLoad, Target, Watcher
from bench.http.lengths import Lengths
from bench.http.load import LoadPlan
from bench.http.tokens import TokenCounter, synthetic_text
from bench.http.workload import GeneratedWorkload
from bench.proof.mock_server import MOCK_MODEL
from bench.proof.prove import proof_rows, proof_table
from bench.report.tables import Table, number, report_console

_STREAMS = 64
_TOKENS_PER_S = 5000
_ANSWER_TOKENS = 400
_TTFT_MS = 50.0


def run_prove(*, client: bool) -> None:
    """Print the reproduced tables and, if asked for, the client's own figures."""
    console = report_console()
    try:
        console.print(proof_table(list(proof_rows())).rich())
        if client:
            console.print(measure_client().rich())
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error


def measure_client() -> Table:
    """Run the client against a mock in another process at the stated load, and report what the client itself costs."""
    itl_ms = 1000.0 * _STREAMS / _TOKENS_PER_S
    command = [sys.executable, "-P", "-m", "powertrain", "bench", "mock", "--port", "0"]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and fixed words
        [*command, "--ttft-ms", str(_TTFT_MS), "--itl-ms", str(itl_ms)], stderr=subprocess.PIPE, text=True
    )
    try:
        url = _address(process)
        return asyncio.run(_client_table(url, itl_ms))
    finally:
        process.terminate()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    line = process.stderr.readline() if process.stderr is not None else ""
    words = [word.rstrip(",") for word in line.split() if word.startswith("http://")]
    if not words:
        raise BenchError("the mock endpoint did not start")
    return words[0]


async def _client_table(url: str, itl_ms: float) -> Table:
    bench = HttpBench(
        targets=[Target(endpoint_from_url(url), ChatOptions(model=MOCK_MODEL))],
        loads=[NamedLoad("client", LoadPlan(concurrency=_STREAMS, request_count=2 * _STREAMS))],
        workload=GeneratedWorkload(
            text=synthetic_text(TokenCounter(None)),
            prompt_tokens=Lengths(128, 128, 128.0),
            output_tokens=Lengths(_ANSWER_TOKENS, _ANSWER_TOKENS, float(_ANSWER_TOKENS)),
        ),
        counter=TokenCounter(None),
    )
    cpu_before, before = time.process_time(), time.perf_counter()
    (point,) = await bench.run(Watcher())
    cpu_s, wall_s = time.process_time() - cpu_before, time.perf_counter() - before
    result = point.runs[0].measurement
    lag = next(check for check in point.runs[0].checks if check.key == "loop_lag")
    tokens = 2 * _STREAMS * _ANSWER_TOKENS
    rows = (
        ("output throughput [tok/s]", number(result.totals["output_tps"]), number(_TOKENS_PER_S)),
        ("TPOT mean [ms]", number(result.distributions["tpot"].mean), number(itl_ms)),
        ("TTFT p50 [ms]", number(result.distributions["ttft"].median), number(_TTFT_MS)),
        ("ITL p99 [ms]", number(result.distributions["itl"].at("p99")), number(itl_ms)),
        ("loop lag p99 [ms]", number(lag.value), f"< {number(lag.limit)}"),
        ("client CPU per token [us]", number(cpu_s / tokens * 1e6), ""),
        ("client share of one core [%]", number(100 * cpu_s / wall_s), ""),
    )
    return Table(f"This client at {_STREAMS} streams, {_TOKENS_PER_S:,} tok/s", ("figure", "measured", "exact"), rows)
