"""How much one long prefill stalls the streams beside it: gaps between chunks during probes against all others.

Pure. A gap is "during" when it overlaps the time between a probe's sending and its first token.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bench.metrics.records import Outcome, Phase, RequestRecord


class StallReport(msgspec.Struct, frozen=True):
    """Chunk gaps (ms) of measured streams during and outside probes. ``p95_ratio`` = during p95 / outside p95."""

    num_probes: int
    probe_ttft_ms: float
    during_p50_ms: float
    during_p95_ms: float
    during_max_ms: float
    outside_p50_ms: float
    outside_p95_ms: float
    p95_ratio: float
    during_count: int = 0
    outside_count: int = 0


def stall_report(records: Sequence[RequestRecord]) -> StallReport | None:
    """Compare gaps during probes with the rest; None without a finished probe or without gaps on both sides."""
    probes = [r for r in records if r.phase is Phase.PROBE and r.outcome is Outcome.OK and len(r.chunk_ns)]
    streams = [r for r in records if r.phase is Phase.MEASURED and r.outcome is Outcome.OK and len(r.chunk_ns) >= 2]
    if not probes or not streams:
        return None
    starts = np.concatenate([record.chunk_ns[:-1] for record in streams])
    ends = np.concatenate([record.chunk_ns[1:] for record in streams])
    during = np.zeros(starts.size, np.bool_)
    for probe in probes:
        during |= (starts < int(probe.chunk_ns[0])) & (ends > probe.sent_ns)
    gaps_ms = (ends - starts) / 1e6
    inside, outside = gaps_ms[during], gaps_ms[~during]
    if not inside.size or not outside.size:
        return None
    outside_p95 = float(np.percentile(outside, 95))
    return StallReport(
        num_probes=len(probes),
        probe_ttft_ms=float(np.median([(int(p.chunk_ns[0]) - p.sent_ns) / 1e6 for p in probes])),
        during_p50_ms=float(np.median(inside)),
        during_p95_ms=float(np.percentile(inside, 95)),
        during_max_ms=float(inside.max()),
        outside_p50_ms=float(np.median(outside)),
        outside_p95_ms=outside_p95,
        p95_ratio=float(np.percentile(inside, 95)) / outside_p95 if outside_p95 > 0 else float("inf"),
        during_count=int(inside.size),
        outside_count=int(outside.size),
    )
