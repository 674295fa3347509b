"""Proves the benchmark's formulas: published tables reproduced by the whole tool in simulated time.

NVIDIA's NIM LLM benchmarking guide 1.0.0 (docs.nvidia.com/nim/benchmarking/llm/1.0.0/performance.html) prints, for
each concurrency, time to first token, inter-token latency and output throughput of a closed loop. A mock endpoint is
given those two latencies; client, load and formulas must then print that throughput. Runs in seconds on any machine,
because time is simulated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.http.endpoint import ChatOptions, endpoint_from_url
from bench.http.http_client import HttpClient
from bench.http.lengths import Lengths
from bench.http.load import LoadPlan, LoadRunner
from bench.http.tokens import TokenCounter, synthetic_text
from bench.http.workload import GeneratedWorkload
from bench.metrics.metrics import Measurement, measure
from bench.metrics.records import RequestRecord
from bench.proof.mock_server import MOCK_MODEL, MockBehaviour, MockServer
from bench.proof.virtual_time import MemoryNetwork, VirtualTimeLoop
from bench.report.tables import Table, number


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One line of a published table: a closed loop of ``concurrency`` with answers of ``output_tokens``."""

    workload: str
    concurrency: int
    output_tokens: int
    ttft_ms: float
    itl_ms: float
    output_tps: float


_8B = "8B NIM 1.8.0"
_70B = "70B FP8 2xH100"
# Llama 3.1 8B and Llama 3.3 70B. The guide's 8B table does not print its answer length; every row agrees with 200.
NIM_TABLES: tuple[PublishedRow, ...] = (
    PublishedRow(_8B, 1, 200, 10.26, 4.63, 214.6),
    PublishedRow(_8B, 50, 200, 67.4, 5.91, 8018),
    PublishedRow(_8B, 100, 200, 120, 7.57, 12215),
    PublishedRow(_8B, 200, 200, 465, 12.65, 13348),
    PublishedRow(_8B, 250, 200, 606, 16.14, 12965),
    PublishedRow(_70B, 1, 500, 407, 18.58, 51.7),
    PublishedRow(_70B, 250, 500, 88605, 93.2, 920),
)


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated run: what the tool measured and the records that it measured it from."""

    measurement: Measurement
    records: list[RequestRecord]


def simulate(
    behaviour: MockBehaviour, plan: LoadPlan, *, prompt_tokens: int = 8, output_tokens: int = 64
) -> Simulation:
    """Run a plan against a mock endpoint in simulated time, through the real client, load and formulas."""
    server = MockServer(behaviour)
    network = MemoryNetwork({("mock", 80): server.protocol})
    text = synthetic_text(TokenCounter(None))
    workload = GeneratedWorkload(
        text=text,
        prompt_tokens=Lengths(8, 8, 8.0),
        output_tokens=Lengths(output_tokens, output_tokens, float(output_tokens)),
    )
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as loop:
        virtual = loop.get_loop()
        if not isinstance(virtual, VirtualTimeLoop):
            raise TypeError("the runner must use the loop that it is given")
        client = HttpClient(endpoint_from_url("http://mock"), network.dial_to("mock", 80), virtual.now_ns)
        runner = LoadRunner(client, ChatOptions(model=MOCK_MODEL), plan, workload, lambda _: None)
        records = loop.run(runner.run())
        loop.run(client.close())
        return Simulation(measure(records), records)


def reproduce(row: PublishedRow, rounds: int = 1) -> Measurement:
    """What the tool measures where an endpoint has exactly the row's latencies; each user asks ``rounds`` times."""
    behaviour = MockBehaviour(ttft_ms=row.ttft_ms, itl_ms=row.itl_ms)
    plan = LoadPlan(concurrency=row.concurrency, request_count=row.concurrency * rounds)
    return simulate(behaviour, plan, output_tokens=row.output_tokens).measurement


def proof_rows(rows: Sequence[PublishedRow] = NIM_TABLES) -> Iterator[tuple[PublishedRow, Measurement]]:
    """Each row with what the tool measured, one at a time."""
    for row in rows:
        yield row, reproduce(row)


def proof_table(proved: Sequence[tuple[PublishedRow, Measurement]]) -> Table:
    """Published against measured figures."""
    columns = ("table", "C", "TTFT ms", "TPOT ms", "published tok/s", "measured", "dev. %")
    rows = []
    for row, result in proved:
        measured_tps = result.totals["output_tps"]
        rows.append(
            (
                row.workload,
                str(row.concurrency),
                number(result.distributions["ttft"].mean),
                number(result.distributions["tpot"].mean),
                number(row.output_tps),
                number(measured_tps),
                f"{100 * (measured_tps / row.output_tps - 1):+.2f}",
            )
        )
    return Table("NVIDIA's published NIM tables, reproduced in simulated time", columns, tuple(rows))
