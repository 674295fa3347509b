"""Reasons to trust or distrust a run, computed from the run itself and printed with it.

Each check has a value, a limit and a verdict; a failed one taints the run and says what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.metrics.metrics import Measurement, measured
from bench.metrics.records import Outcome, RequestRecord

LITTLE_LIMIT = 0.02
LAG_LIMIT_MS = 5.0
TOKEN_COUNT_LIMIT = 0.02
DRIFT_LIMIT = 0.10
_DRIFT_MIN_REQUESTS = 20


class Check(msgspec.Struct, frozen=True):
    """One check. ``ok`` None means that it could not be made; ``detail`` says why, or what the value means."""

    key: str
    title: str
    ok: bool | None
    value: float | None
    limit: float | None
    unit: str
    detail: str


def run_checks(
    records: Sequence[RequestRecord], result: Measurement, concurrency: int | None, lag_ms: NDArray[np.float64]
) -> list[Check]:
    """Every check of one run. ``concurrency`` is the closed loop's target, None for an open loop.

    ``lag_ms`` (float64 [samples]) are the event loop's delays, see bench/http/loop_lag.py.
    """
    counted = measured(records)
    done = [record for record in counted if record.outcome is Outcome.OK]
    return [
        littles_law(result, concurrency),
        loop_lag(lag_ms),
        token_counts(done),
        warmup_drift(done),
        failures(result),
    ]


def littles_law(result: Measurement, concurrency: int | None) -> Check:
    """Closed loop: |C * mean(n) / mean(E2EL) - output_tps| / output_tps."""
    title = "Little's law residual"
    measured_tps = result.totals.get("output_tps")
    tokens, latency = result.distributions.get("output_tokens"), result.distributions.get("request_latency")
    if concurrency is None or not measured_tps or tokens is None or latency is None:
        detail = "an open loop has no fixed concurrency" if concurrency is None else "nothing was measured"
        return Check("littles_law", title, None, None, LITTLE_LIMIT, "", detail)
    predicted = concurrency * tokens.mean / latency.mean * 1000.0
    residual = abs(predicted - measured_tps) / measured_tps
    detail = f"{concurrency} x {tokens.mean:.1f} tok / {latency.mean:.1f} ms = {predicted:.1f} tok/s"
    detail += f", measured {measured_tps:.1f}"
    held = result.totals["concurrency"]
    if residual > LITTLE_LIMIT and held >= 0.99 * concurrency:
        detail += "; the load was held, so latencies changed within the run: add requests"
    elif residual > LITTLE_LIMIT:
        detail += f"; the mean concurrency was {held:.2f}: add requests, or cool-down ones (--cooldown-request-count)"
    return Check("littles_law", title, residual <= LITTLE_LIMIT, residual, LITTLE_LIMIT, "", detail)


def loop_lag(lag_ms: NDArray[np.float64]) -> Check:
    """99th percentile of the client's event-loop delay."""
    title = "Client loop lag p99"
    if lag_ms.size == 0:
        return Check("loop_lag", title, None, None, LAG_LIMIT_MS, "ms", "the run was too short to sample the loop")
    value = float(np.percentile(lag_ms, 99))
    ok = value < LAG_LIMIT_MS
    detail = f"max {float(lag_ms.max()):.2f} ms over {lag_ms.size} samples"
    if not ok:
        detail += "; this client was too slow or too poor in CPU to be believed: give it a core of its own"
    return Check("loop_lag", title, ok, value, LAG_LIMIT_MS, "ms", detail)


def token_counts(done: Sequence[RequestRecord]) -> Check:
    """|own - usage| / usage over all answers that have both."""
    title = "Output tokens: own count against usage"
    both = [(r.own_tokens, r.completion_tokens) for r in done if r.own_tokens is not None and r.completion_tokens]
    without = sum(record.completion_tokens is None for record in done)
    if without:
        detail = f"{without} of {len(done)} answers carried no usage; their tokens are " + (
            "counted by the tokenizer" if both or any(r.own_tokens is not None for r in done) else "chunks, not tokens"
        )
        return Check("token_counts", title, False, None, TOKEN_COUNT_LIMIT, "", detail)
    if not both:
        return Check(
            "token_counts", title, None, None, TOKEN_COUNT_LIMIT, "", "give --tokenizer to count independently"
        )
    own, usage = sum(pair[0] for pair in both), sum(pair[1] or 0 for pair in both)
    value = abs(own - usage) / usage
    detail = f"own {own}, usage {usage} (an end-of-text token has no text, and text may tokenize back differently)"
    return Check("token_counts", title, value <= TOKEN_COUNT_LIMIT, value, TOKEN_COUNT_LIMIT, "", detail)


def warmup_drift(done: Sequence[RequestRecord]) -> Check:
    """median latency of the later half of requests / of the earlier half - 1."""
    title = "Warm-up drift"
    timed = sorted((r for r in done if len(r.chunk_ns)), key=lambda record: record.sent_ns)
    if len(timed) < _DRIFT_MIN_REQUESTS:
        return Check(
            "drift", title, None, None, DRIFT_LIMIT, "", f"needs {_DRIFT_MIN_REQUESTS} requests, had {len(timed)}"
        )
    per_token = [(int(r.chunk_ns[-1]) - r.sent_ns) / max(r.output_tokens, 1) for r in timed]
    half = len(per_token) // 2
    value = float(np.median(per_token[half:]) / np.median(per_token[:half]) - 1.0)
    ok = abs(value) <= DRIFT_LIMIT
    detail = "median latency per token, later half against earlier half"
    return Check(
        "drift",
        title,
        ok,
        value,
        DRIFT_LIMIT,
        "",
        detail if ok else detail + "; warm up longer, or find what else took the machine",
    )


def failures(result: Measurement) -> Check:
    """Share of measured requests that failed or never finished."""
    bad = result.outcomes["failed"] + result.outcomes["unfinished"]
    total = sum(result.outcomes.values())
    kinds = ", ".join(f"{kind} x{count}" for kind, count in sorted(result.errors.items()))
    detail = f"{bad} of {total} requests" + (f" ({kinds})" if kinds else "")
    return Check("failures", "Failed requests", bad == 0 and total > 0, bad / total if total else None, 0.0, "", detail)
