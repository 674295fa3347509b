"""Metrics of recorded streams against values computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.metrics.catalog import BY_KEY, METRICS, Scope, explain
from bench.metrics.metrics import chunk_gaps_ms, is_good, measure, per_request, token_gaps_ms
from bench.metrics.records import Outcome, Phase, RequestRecord
from bench.metrics.slo import Objective
from bench.metrics.stalls import stall_report

MS = 1_000_000


def record(chunks_ms: list[float], sent_ms: float = 1000.0, **changes: Any) -> RequestRecord:
    values: dict[str, Any] = {
        "index": 0,
        "phase": Phase.MEASURED,
        "outcome": Outcome.OK,
        "scheduled_ns": int(sent_ms * MS),
        "sent_ns": int(sent_ms * MS),
        "end_ns": int((chunks_ms[-1] if chunks_ms else sent_ms) * MS),
        "asked_tokens": 10,
        "chunk_ns": np.array([int(c * MS) for c in chunks_ms], np.int64),
        "first_answer_ns": int(chunks_ms[0] * MS) if chunks_ms else 0,
        "completion_tokens": len(chunks_ms),
    }
    return RequestRecord(**{**values, **changes})


def test_one_stream_by_hand() -> None:
    # Sent at 1000 ms; chunks at 1100, 1110, 1130, 1160 ms; 7 tokens by usage, 50 prompt tokens; wanted at 990 ms.
    values = per_request(record([1100, 1110, 1130, 1160], scheduled_ns=990 * MS, completion_tokens=7, prompt_tokens=50))

    assert values == {
        "ttft": 100.0,
        "ttfo": 100.0,
        "ttst": 10.0,
        "tpot": 10.0,  # (160 - 100) / (7 - 1)
        "request_latency": 160.0,
        "request_latency_with_queue": 170.0,
        "client_queue_time": 10.0,
        "ntpot": pytest.approx(160 / 7),
        "output_tps_per_user": 100.0,
        "prefill_tps": 500.0,
        "input_tokens": 50.0,
        "output_tokens": 7.0,
        "tokens_per_chunk": 1.75,
    }


def test_undefined_metrics_are_absent() -> None:
    one_chunk = per_request(record([1100], completion_tokens=5))
    assert "tpot" not in one_chunk, "five tokens in one chunk say nothing about time per token"
    assert "ttst" not in one_chunk
    assert one_chunk["ttft"] == 100.0

    no_text = per_request(record([], completion_tokens=0))
    assert set(no_text) == {"output_tokens", "client_queue_time"}


def test_reasoning_counts_for_ttft_and_not_for_ttfo() -> None:
    values = per_request(record([1100, 1200, 1300], first_answer_ns=1300 * MS))
    assert (values["ttft"], values["ttfo"]) == (100.0, 300.0)


def test_output_tokens_prefer_usage_then_own_count_then_chunks() -> None:
    assert record([1, 2, 3], completion_tokens=9, own_tokens=8).output_tokens == 9
    assert record([1, 2, 3], completion_tokens=None, own_tokens=8).output_tokens == 8
    assert record([1, 2, 3], completion_tokens=None).output_tokens == 3


def test_gaps_are_pooled_over_requests_and_split_over_tokens() -> None:
    a = record([1100, 1110, 1140], chunk_tokens=np.array([1, 1, 3], np.int64))
    b = record([1100, 1105], chunk_tokens=None)

    assert chunk_gaps_ms([a, b]).tolist() == [10.0, 30.0, 5.0]
    assert token_gaps_ms([a, b]).tolist() == [10.0, 10.0, 10.0, 10.0]


def test_totals_by_hand() -> None:
    # Two requests in a window from 1000 to 1500 ms: 4 + 6 tokens, 30 + 20 prompt tokens.
    records = [
        record([1100, 1200], completion_tokens=4, prompt_tokens=30),
        record([1250, 1500], sent_ms=1100, completion_tokens=6, prompt_tokens=20),
        record([1100, 9000], phase=Phase.WARMUP),
        record([1100], outcome=Outcome.FAILED, error_kind="http_500", error_text="HTTP 500: boom"),
        record([1100], outcome=Outcome.CANCELLED),
    ]

    result = measure(records, (Objective("ttft", 120.0), Objective("tpot", 60.0)))

    assert result.totals["duration"] == pytest.approx(0.5)
    assert result.totals["output_tps"] == pytest.approx(20.0)
    assert result.totals["total_tps"] == pytest.approx(120.0)
    assert result.totals["request_tps"] == pytest.approx(4.0)
    assert result.totals["concurrency"] == pytest.approx((0.2 + 0.4) / 0.5)
    # First: ttft 100, tpot 100/3 = 33.3: good. Second: ttft 150: bad. The failed one counts as bad.
    assert result.totals["goodput"] == pytest.approx(2.0)
    assert result.totals["goodput_share"] == pytest.approx(100 / 3)
    assert result.outcomes == {"ok": 2, "failed": 1, "cancelled": 1, "unfinished": 0}
    assert result.errors == {"http_500": 1}
    assert result.error_examples == {"http_500": "HTTP 500: boom"}


def test_percentiles_interpolate_linearly_and_std_is_the_populations() -> None:
    records = [record([1000 + 10 * k]) for k in range(1, 6)]  # ttft 10, 20, 30, 40, 50 ms

    ttft = measure(records).distributions["ttft"]

    assert (ttft.count, ttft.mean, ttft.min, ttft.max, ttft.median) == (5, 30.0, 10.0, 50.0, 30.0)
    assert ttft.std == pytest.approx(200**0.5)
    assert ttft.percentiles["p90"] == pytest.approx(46.0)
    assert ttft.percentiles["p1"] == pytest.approx(10.4)
    assert ttft.curve == [10.0, 20.0, 30.0, 40.0, 50.0]


def test_a_single_token_answer_cannot_violate_tpot() -> None:
    assert is_good(per_request(record([1100])), (Objective("ttft", 100.0), Objective("tpot", 1.0)))
    assert not is_good(per_request(record([1100])), (Objective("ttft", 99.9),))


def test_every_computed_metric_is_defined_and_every_definition_is_computed() -> None:
    full = record([1100, 1200], completion_tokens=4, prompt_tokens=30, chunk_tokens=np.array([2, 2], np.int64))
    result = measure([full], (Objective("ttft", 1.0),))

    assert set(result.distributions) | set(result.totals) == set(BY_KEY)
    for key in result.totals:
        assert BY_KEY[key].scope is Scope.RUN
    assert len(BY_KEY) == len(METRICS)
    assert explain(BY_KEY["tpot"]).startswith("tpot [ms] = (E2EL - TTFT) / (n - 1) (per request).")


def test_stalls_by_hand() -> None:
    # One stream: gaps 10, 10, 50, 10, 10 ms; a probe from 1115 ms to its first token at 1165 ms.
    stream = record([1100, 1110, 1120, 1170, 1180, 1190])
    probe = record([1165], sent_ms=1115, phase=Phase.PROBE)

    report = stall_report([stream, probe])

    assert report is not None
    assert (report.num_probes, report.probe_ttft_ms) == (1, 50.0)
    assert (report.during_max_ms, report.during_p50_ms) == (50.0, 30.0)  # gaps 1110-1120 and 1120-1170 overlap
    assert (report.outside_p50_ms, report.outside_p95_ms) == (10.0, 10.0)
    assert report.p95_ratio == pytest.approx(4.8)  # p95 of {10, 50} is 48
    assert (report.during_count, report.outside_count) == (2, 3)
    assert stall_report([stream]) is None
