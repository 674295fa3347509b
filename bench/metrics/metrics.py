"""Turns request records into the metrics that bench/metrics/catalog.py defines. Pure; knows no clock and no output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.metrics.records import Outcome, Phase, RequestRecord
from bench.metrics.slo import Objective
from bench.metrics.stats import Distribution, distribution

_NS_PER_MS = 1e6
_NS_PER_S = 1e9


class Measurement(msgspec.Struct, frozen=True):
    """All metrics of one run. ``distributions`` and ``totals`` are keyed by catalog keys; absent means undefined.

    ``outcomes`` counts measured requests by outcome, ``errors`` failed ones by kind with one example text each.
    """

    distributions: dict[str, Distribution]
    totals: dict[str, float]
    outcomes: dict[str, int]
    errors: dict[str, int]
    error_examples: dict[str, str]


def measured(records: Iterable[RequestRecord]) -> list[RequestRecord]:
    """The requests that count: neither warm-up nor cool-down nor probe."""
    return [record for record in records if record.phase is Phase.MEASURED]


def per_request(record: RequestRecord) -> dict[str, float]:
    """The per-request metrics of one successful request, by catalog key; undefined ones are absent."""
    values: dict[str, float] = {"output_tokens": float(record.output_tokens)}
    if record.prompt_tokens is not None:
        values["input_tokens"] = float(record.prompt_tokens)
    values["client_queue_time"] = (record.sent_ns - record.scheduled_ns) / _NS_PER_MS
    chunks = len(record.chunk_ns)
    if chunks == 0:
        return values
    first, last = int(record.chunk_ns[0]), int(record.chunk_ns[-1])
    values["ttft"] = (first - record.sent_ns) / _NS_PER_MS
    values["request_latency"] = (last - record.sent_ns) / _NS_PER_MS
    values["request_latency_with_queue"] = (last - record.scheduled_ns) / _NS_PER_MS
    if record.first_answer_ns:
        values["ttfo"] = (record.first_answer_ns - record.sent_ns) / _NS_PER_MS
    tokens = record.output_tokens
    if tokens > 0:
        values["ntpot"] = values["request_latency"] / tokens
        values["tokens_per_chunk"] = tokens / chunks
    if chunks >= 2:
        values["ttst"] = (int(record.chunk_ns[1]) - first) / _NS_PER_MS
    if chunks >= 2 and tokens >= 2:
        values["tpot"] = (last - first) / _NS_PER_MS / (tokens - 1)
    if values.get("tpot", 0.0) > 0:
        values["output_tps_per_user"] = 1000.0 / values["tpot"]
    if record.prompt_tokens and values["ttft"] > 0:
        values["prefill_tps"] = record.prompt_tokens / values["ttft"] * 1000.0
    return values


def chunk_gaps_ms(records: Iterable[RequestRecord]) -> NDArray[np.float64]:
    """Every gap between neighbouring chunks with text, float64 [gaps], ms."""
    gaps = [np.diff(record.chunk_ns) / _NS_PER_MS for record in records if len(record.chunk_ns) >= 2]
    return np.concatenate(gaps).astype(np.float64) if gaps else np.empty(0, np.float64)


def token_gaps_ms(records: Iterable[RequestRecord]) -> NDArray[np.float64]:
    """Every gap divided by its chunk's tokens and counted that often, float64 [tokens], ms; needs running usage."""
    parts = []
    for record in records:
        if record.chunk_tokens is None or len(record.chunk_ns) < 2:
            continue
        tokens = np.maximum(record.chunk_tokens[1:], 1)
        parts.append(np.repeat(np.diff(record.chunk_ns) / _NS_PER_MS / tokens, tokens))
    return np.concatenate(parts).astype(np.float64) if parts else np.empty(0, np.float64)


def is_good(values: dict[str, float], objectives: Sequence[Objective]) -> bool:
    """Whether a request meets every objective. One-token answers have no TPOT and cannot violate it."""
    return all(values.get(objective.key, 0.0) <= objective.limit_ms for objective in objectives)


def measure(records: Sequence[RequestRecord], objectives: Sequence[Objective] = ()) -> Measurement:
    """All metrics of the measured requests among ``records``."""
    counted = measured(records)
    done = [record for record in counted if record.outcome is Outcome.OK]
    rows = [per_request(record) for record in done]
    samples: dict[str, NDArray[np.float64]] = {
        key: np.array([row[key] for row in rows if key in row], np.float64)
        for key in dict.fromkeys(key for row in rows for key in row)
    }
    samples["itl"] = chunk_gaps_ms(done)
    samples["itl_per_token"] = token_gaps_ms(done)
    failed = [record for record in counted if record.outcome is Outcome.FAILED]
    return Measurement(
        distributions={key: value for key, sample in samples.items() if (value := distribution(sample)) is not None},
        totals=_totals(records, done, rows, len(failed), objectives),
        outcomes={outcome.value: sum(r.outcome is outcome for r in counted) for outcome in Outcome},
        errors=dict(Counter(record.error_kind or "unknown" for record in failed)),
        error_examples={record.error_kind or "unknown": record.error_text or "" for record in reversed(failed)},
    )


class _Window(NamedTuple):
    """T: from the first measured request sent to the last measured chunk with text, ns."""

    begin_ns: int
    end_ns: int

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.begin_ns) / _NS_PER_S


def _window(done: Sequence[RequestRecord]) -> _Window | None:
    ends = [int(record.chunk_ns[-1]) for record in done if len(record.chunk_ns)]
    if not ends:
        return None
    window = _Window(min(record.sent_ns for record in done), max(ends))
    return window if window.seconds > 0 else None


def _totals(
    records: Sequence[RequestRecord],
    done: Sequence[RequestRecord],
    rows: Sequence[dict[str, float]],
    num_failed: int,
    objectives: Sequence[Objective],
) -> dict[str, float]:
    window = _window(done)
    if window is None:
        return {}
    # Cool-down requests keep the endpoint busy while the last measured ones run: what arrived of them in the window
    # is the endpoint's work like any other. Without cool-down these sums are simply over the measured requests.
    beside = [record for record in records if record.phase is Phase.COOLDOWN and record.outcome is Outcome.OK]
    present = [record for record in (*done, *beside) if len(record.chunk_ns)]
    tokens_out = sum(record.output_tokens * _share_inside(record, window) for record in present)
    tokens_in = sum(record.prompt_tokens or 0 for record in present if int(record.chunk_ns[0]) <= window.end_ns)
    finished = sum(int(record.chunk_ns[-1]) <= window.end_ns for record in present)
    totals = {
        "duration": window.seconds,
        "output_tps": tokens_out / window.seconds,
        "total_tps": (tokens_in + tokens_out) / window.seconds,
        "request_tps": finished / window.seconds,
        "concurrency": sum(_seconds_inside(record, window) for record in present) / window.seconds,
    }
    if objectives:
        good = sum(is_good(row, objectives) for row in rows)
        totals["goodput"] = totals["request_tps"] * good / len(done)
        totals["goodput_share"] = 100.0 * good / (len(done) + num_failed)
    return totals


def _share_inside(record: RequestRecord, window: _Window) -> float:
    """Share of a request's chunks that arrived by the window's end (none can come before its beginning)."""
    return float(np.searchsorted(record.chunk_ns, window.end_ns, side="right")) / len(record.chunk_ns)


def _seconds_inside(record: RequestRecord, window: _Window) -> float:
    return max(0.0, (min(int(record.chunk_ns[-1]), window.end_ns) - record.sent_ns) / _NS_PER_S)
