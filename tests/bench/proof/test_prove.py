"""The proof: published tables and hand-made cases reproduced to the digit by the whole tool in simulated time."""

from __future__ import annotations

import pytest

from bench.http.load import LoadPlan
from bench.proof.mock_server import MockBehaviour
from bench.proof.prove import NIM_TABLES, PublishedRow, proof_table, reproduce, simulate


@pytest.mark.parametrize("row", NIM_TABLES, ids=lambda row: f"{row.workload}-{row.concurrency}")
def test_published_nim_table_is_reproduced(row: PublishedRow) -> None:
    rounds = 2 if row.concurrency <= 100 else 1  # a client's second request differs by nothing that the others' lacks
    result = reproduce(row, rounds=rounds)

    assert result.distributions["ttft"].min == pytest.approx(row.ttft_ms, abs=1e-5)
    assert result.distributions["ttft"].max == pytest.approx(row.ttft_ms, abs=1e-5)
    assert result.distributions["tpot"].max == pytest.approx(row.itl_ms, abs=1e-5)
    assert result.distributions["itl"].percentiles["p99.9"] == pytest.approx(row.itl_ms, abs=1e-5)
    assert result.distributions["itl"].count == rounds * row.concurrency * (row.output_tokens - 1)
    assert result.totals["concurrency"] == pytest.approx(row.concurrency, rel=1e-9)
    latency_ms = row.ttft_ms + row.itl_ms * (row.output_tokens - 1)
    implied_tps = row.concurrency * row.output_tokens / latency_ms * 1e3
    assert result.totals["output_tps"] == pytest.approx(implied_tps, rel=1e-6)
    # The 8B row at 250 departs by 1.01 %: that is what the table's own rounded columns imply.
    assert result.totals["output_tps"] == pytest.approx(row.output_tps, rel=0.0102)


def test_proof_table_shows_the_deviation() -> None:
    row = PublishedRow("made up", 2, 11, 100.0, 10.0, 100.0)  # 2 * 11 / 0.2 s = 110 tok/s

    table = proof_table([(row, reproduce(row))])

    assert table.rows == (("made up", "2", "100.0", "10.00", "100.0", "110.0", "+10.00"),)


def test_simulation_is_deterministic() -> None:
    plan = LoadPlan(concurrency=3, request_count=7, warmup_count=2)

    first, second = (simulate(MockBehaviour(ttft_ms=7, itl_ms=3), plan, output_tokens=5) for _ in range(2))

    assert [r.chunk_ns.tolist() for r in first.records] == [r.chunk_ns.tolist() for r in second.records]
    assert first.measurement == second.measurement
