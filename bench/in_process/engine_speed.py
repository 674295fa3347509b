"""Prefill and decode speed of a session, in llama-bench's terms: no sampling, no scheduling, no text.

Repetitions go round-robin over the tests, so that a machine whose speed drifts treats every test alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from runtime.adapter import Adapter
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.session.session import Session
from runtime.session.takes_adapters import TakesAdapters

from bench.errors import BenchError
from bench.in_process.engine_report import SpeedTest

_SEED = 0
_FIRST_TOKEN_ID = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPlan:
    """What to measure: prefill lengths, decode length, each at every depth; decode for every batch size.

    With ``adapters`` everything is measured again with each of these numbers of adapters, dealt to the rows in turn.
    """

    prefill_tokens: tuple[int, ...]
    decode_tokens: int
    depths: tuple[int, ...]
    batches: tuple[int, ...]
    repetitions: int
    chunk_tokens: int = IDLE_PREFILL_CHUNK_TOKENS
    adapters: tuple[int, ...] = ()


@dataclass(slots=True)
class _Case:
    name: str
    batch: int
    depth: int
    tokens: int
    is_prefill: bool
    num_adapters: int = 0
    samples: list[float] = field(default_factory=list)
    calls_ms: list[float] = field(default_factory=list)


def measure_speed(
    session: Session,
    plan: SpeedPlan,
    weight_bytes: int,
    bandwidth: float,
    on_run: Callable[[str], None],
    *,
    adapters: Sequence[Adapter] = (),
) -> list[SpeedTest]:
    """Every test of the plan, the first round discarded as warm-up. BenchError when one does not fit the session.

    ``on_run`` is told each test's name as it runs. ``weight_bytes`` and ``bandwidth`` (bytes/s) give the share of
    the memory limit at batch 1. ``adapters`` are at least as many as the plan asks for.
    """
    cases = _cases(session, plan)
    for repetition in range(plan.repetitions + 1):
        for case in cases:
            on_run(case.name)
            if adapters:
                deal_adapters(session, case.batch, adapters[: case.num_adapters])
            tokens_per_s, calls_ms = _prefill(session, case, plan) if case.is_prefill else _decode(session, case, plan)
            if repetition:
                case.samples.append(tokens_per_s)
                case.calls_ms += calls_ms
    kv_bytes = session.info.kv_bytes_per_token
    return [_result(case, weight_bytes, kv_bytes, bandwidth) for case in cases]


def _cases(session: Session, plan: SpeedPlan) -> list[_Case]:
    info = session.info
    cases = []
    for depth in plan.depths:
        suffix = f"@d{depth}" if depth else ""
        cases += [_Case(f"pp{tokens}{suffix}", 1, depth, tokens, True) for tokens in plan.prefill_tokens]
        if plan.decode_tokens:
            cases += [
                _Case(f"tg{plan.decode_tokens} b{batch}{suffix}", batch, depth, plan.decode_tokens, False)
                for batch in plan.batches
            ]
    plain = list(cases)
    for count in plan.adapters:  # more adapters than rows are as many as there are rows
        cases += [
            replace(case, name=f"{case.name} a{count}", num_adapters=count, samples=[], calls_ms=[])
            for case in plain
            if count <= case.batch
        ]
    for case in cases:
        if case.depth + case.tokens > info.max_model_len:
            raise BenchError(f"{case.name} needs {case.depth + case.tokens} tokens, a slot holds {info.max_model_len}")
        if case.batch > info.num_slots:
            raise BenchError(f"{case.name} needs {case.batch} slots, the session has {info.num_slots}; see --slots")
    return cases


def deal_adapters(session: Session, num_rows: int, adapters: Sequence[Adapter]) -> None:
    """Give the first slots the adapters in turn, or none. Raises BenchError where the session takes none."""
    if not isinstance(session, TakesAdapters):
        raise BenchError("this backend takes no adapters")
    for slot in range(num_rows):
        session.set_adapter(slot, adapters[slot % len(adapters)] if adapters else None)


def _prefill(session: Session, case: _Case, plan: SpeedPlan) -> tuple[float, list[float]]:
    token_ids = _tokens(session, case.depth + case.tokens)
    _fill(session, 0, token_ids[: case.depth], plan)
    begin = time.perf_counter()
    start = case.depth
    while start < len(token_ids):
        stop = min(start + plan.chunk_tokens, len(token_ids))
        session.prefill(0, token_ids[start:stop], start, 1 if stop == len(token_ids) else 0)
        start = stop
    seconds = time.perf_counter() - begin
    return case.tokens / seconds, [seconds * 1e3]


def _decode(session: Session, case: _Case, plan: SpeedPlan) -> tuple[float, list[float]]:
    # A slot needs one token before it can decode: depth 0 is llama-bench's empty context but for that one.
    depth = max(case.depth, 1)
    for slot in range(case.batch):
        _fill(session, slot, _tokens(session, depth), plan)
    token_ids = _tokens(session, case.batch)
    slots, positions = np.arange(case.batch), np.full(case.batch, depth, np.int64)
    calls_ms = []
    for step in range(case.tokens if depth + case.tokens <= session.info.max_model_len else case.tokens - 1):
        begin = time.perf_counter()
        session.decode_tokens(slots, token_ids, positions + step)
        calls_ms.append((time.perf_counter() - begin) * 1e3)
    return case.batch * len(calls_ms) / sum(calls_ms) * 1e3, calls_ms


def _fill(session: Session, slot: int, token_ids: np.ndarray[tuple[int], np.dtype[np.int64]], plan: SpeedPlan) -> None:
    for start in range(0, len(token_ids), plan.chunk_tokens):
        session.prefill(slot, token_ids[start : start + plan.chunk_tokens], start, 0)


def _tokens(session: Session, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Random ordinary tokens, int64 [count]; the same ones every time."""
    low = min(_FIRST_TOKEN_ID, session.info.vocab_size - 1)
    return np.random.default_rng(_SEED).integers(low, session.info.vocab_size, count, np.int64)


def _result(case: _Case, weight_bytes: int, kv_bytes_per_token: int, bandwidth: float) -> SpeedTest:
    step_ms = float(np.median(case.calls_ms))
    share = None
    if not case.is_prefill and case.batch == 1:
        context = max(case.depth, 1) + case.tokens / 2
        share = (weight_bytes + kv_bytes_per_token * context) / (step_ms / 1e3) / bandwidth
    return SpeedTest(case.name, case.batch, case.depth, case.tokens, case.samples, step_ms, share)


def parse_counts(text: str, flag: str, *, lowest: int = 1) -> tuple[int, ...]:
    """Parse ``1,4,16``. Raises BenchError naming the flag."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or any(value < lowest for value in values):
        raise BenchError(f"{flag} {text!r} is not a list of whole numbers from {lowest}, such as 1,4,16")
    return values
