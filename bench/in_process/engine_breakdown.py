"""Where a decode step of the whole engine goes: plan, copy, bind, run, sample, commit, deliver.

Drives the engine on this thread, as its worker does, and delivers each step's events to an event loop on another
thread, as the server does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import uvloop
from numpy.typing import NDArray
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.engine.step_report import StepResult, StepTimes
from runtime.events import FinishEvent
from runtime.request import Request, SamplingParams
from runtime.session.session import Session
from runtime.token_mask import Constraint

from bench.errors import BenchError
from bench.in_process.engine_report import Breakdown

SAMPLINGS: dict[str, SamplingParams] = {
    "greedy": SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True),
    "top-p": SamplingParams(max_tokens=1, temperature=0.8, top_p=0.95, seed=1, ignore_eos=True),
}
PROMPT_TOKENS = 128
"""Of each row of a measured step, before it generates."""
_WARM_STEPS = 3


def measure_breakdown(
    session: Session, batch: int, sampling: str, num_steps: int, constraint: Constraint | None = None
) -> Breakdown:
    """Medians over ``num_steps`` decode steps that carry all ``batch`` rows and nothing else.

    Every row goes by ``constraint`` if there is one. Prompts of 128 tokens. Raises BenchError when they do not fit, or
    when the engine ends a sequence with an error.
    """
    info = session.info
    if batch > info.num_slots or PROMPT_TOKENS + num_steps + _WARM_STEPS + batch + 2 > info.max_model_len:
        raise BenchError(
            f"a breakdown of batch {batch} over {num_steps} steps does not fit {info.num_slots} slots of "
            f"{info.max_model_len} tokens"
        )
    engine = engine_at_work(session, batch, sampling, num_steps + _WARM_STEPS + batch + 2, constraint)
    names = [field.name.removesuffix("_ns") for field in fields(StepTimes)]
    rows = _steps_us(engine, batch, names)
    times_us = rows[_WARM_STEPS : _WARM_STEPS + num_steps]
    parts = dict(zip([*names, "deliver"], np.median(times_us, axis=0).tolist(), strict=True))
    run_at = names.index("run")
    totals = times_us.sum(axis=1)
    return Breakdown(
        batch=batch,
        sampling=sampling if constraint is None else f"{sampling}, schema",
        num_steps=len(times_us),
        parts_us=parts,
        overhead_us=float(np.median(totals - times_us[:, run_at])),
        total_us=float(np.median(totals)),
    )


def engine_at_work(
    session: Session, batch: int, sampling: str, max_tokens: int, constraint: Constraint | None
) -> Engine:
    """An engine with ``batch`` requests of 128 random tokens, the same ones every time, none of which has run yet."""
    info = session.info
    engine = Engine(session, EngineConfig(prefix_cache=False))
    params = replace(SAMPLINGS[sampling], max_tokens=max_tokens)
    rng = np.random.default_rng(0)
    first_id = min(256, info.vocab_size - 1)
    for index in range(batch):
        prompt = tuple(rng.integers(first_id, info.vocab_size, PROMPT_TOKENS).tolist())
        engine.add(
            Request(
                request_id=f"r{index}",
                prompt_ids=prompt,
                sampling=params,
                eos_token_ids=frozenset(),
                constraint=constraint,
            )
        )
    return engine


def run_step(engine: Engine, loop: asyncio.AbstractEventLoop) -> tuple[StepResult, int]:
    """One step whose events are handed to ``loop``, and the nanoseconds that the handing took.

    Raises BenchError when the engine ends a sequence with an error.
    """
    result = engine.step()
    begin = time.perf_counter_ns()
    loop.call_soon_threadsafe(len, result.events)
    delivered_ns = time.perf_counter_ns() - begin
    failed = [event.error for event in result.events if isinstance(event, FinishEvent) and event.error]
    if failed:
        raise BenchError(f"the engine ended a sequence with an error: {failed[0]}")
    return result, delivered_ns


def _steps_us(engine: Engine, batch: int, names: list[str]) -> NDArray[np.float64]:
    """Run the engine dry; times of the pure decode steps of full batch, float64 [steps, parts + deliver], us."""
    rows: list[list[int]] = []
    with event_loop_elsewhere() as loop:
        while engine.has_work:
            result, delivered_ns = run_step(engine, loop)
            if result.num_decoded == batch and result.num_prefilled == 0:
                rows.append([*(getattr(result.times, name + "_ns") for name in names), delivered_ns])
    return np.array(rows, np.float64) / 1e3


@contextmanager
def event_loop_elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A running event loop on another thread, of the server's kind: waking asyncio's own takes twice as long."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bench-deliver", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
