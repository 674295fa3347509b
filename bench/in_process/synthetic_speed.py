"""The engine over a session of zero compute: CPU time of a decode step, and tokens per second through AsyncEngine.

Steps are measured in CPU time of the thread that runs them, which other processes of the machine cannot stretch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import uvloop
from runtime.engine.async_engine import AsyncEngine, EventStream
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.engine.step_report import StepTimes
from runtime.events import Event, FinishEvent, TokenEvent
from runtime.request import Request, SamplingParams

from bench.errors import BenchError
from bench.in_process.synthetic_report import HostStep, StreamSpeed
from bench.in_process.synthetic_session import ChoosingSession, SyntheticSession


@dataclass(frozen=True, slots=True)
class Kind:
    """A way of drawing, and how long the prompts before it are."""

    sampling: SamplingParams
    prompt_tokens: int = 128


_TOP_P = SamplingParams(max_tokens=1, temperature=0.8, top_p=0.95, seed=1, ignore_eos=True)
KINDS: dict[str, Kind] = {
    "greedy": Kind(SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)),
    "top-p": Kind(_TOP_P),
    "penalties": Kind(
        replace(_TOP_P, repetition_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.1), prompt_tokens=4096
    ),
    "logprobs": Kind(replace(_TOP_P, logprobs=5)),
}
"""Penalties come after 4,096 tokens of prompt: a repetition penalty looks at each of them."""
CHOSEN_KINDS = ("greedy", "top-p", "logprobs")
"""Those by which a session can choose all tokens; penalties after long prompts are more edits than it takes."""
STREAM_KINDS = ("greedy", "top-p")
"""Ways of drawing that leave a row as it is, so that nothing need be copied between two steps."""
_WARM_STEPS = 3
_ALL_AT_ONCE = 2**30
_CONFIG = EngineConfig(prefix_cache=False, prefill_chunk_tokens=_ALL_AT_ONCE, idle_prefill_chunk_tokens=_ALL_AT_ONCE)
"""Prompts cost nothing here: all are read in the first step, so that the second one is of full batch."""
_FIRST_TOKEN_ID = 256


def measure_step(vocab_size: int, batch: int, name: str, num_steps: int, *, on_device: bool = False) -> HostStep:
    """CPU time of ``num_steps`` decode steps that carry all ``batch`` rows and nothing else.

    ``on_device``: the session chooses the tokens.
    """
    kind = KINDS[name]
    room = kind.prompt_tokens + num_steps + 2 * _WARM_STEPS
    session = _session(vocab_size, batch, room, on_device=on_device)
    engine = Engine(session, _CONFIG, time.thread_time_ns)
    for request in _requests(vocab_size, batch, kind, room - kind.prompt_tokens):
        engine.add(request)
    names = [field.name.removesuffix("_ns") for field in fields(StepTimes) if field.name != "run_ns"]
    rows: list[list[int]] = []
    while len(rows) < _WARM_STEPS + num_steps:
        begin = time.thread_time_ns()
        result = engine.step()
        step_ns = time.thread_time_ns() - begin - result.times.run_ns
        _refuse_errors(result.events)
        if not engine.has_work:
            raise BenchError("the engine ended before all steps were measured")
        if result.num_decoded == batch and result.num_prefilled == 0:
            rows.append([step_ns, *(getattr(result.times, part + "_ns") for part in names)])
    times_us = np.array(rows[_WARM_STEPS:], np.float64) / 1e3  # [steps, 1 + parts]
    parts = dict(zip(names, np.median(times_us[:, 1:], axis=0).round(2).tolist(), strict=True))
    shown = f"{name} on device" if on_device else name
    return HostStep(vocab_size, batch, shown, times_us[:, 0].round(2).tolist(), parts)


def _session(vocab_size: int, batch: int, room: int, *, on_device: bool) -> SyntheticSession:
    if on_device:
        return ChoosingSession(batch, vocab_size, room, time.thread_time_ns)
    return SyntheticSession(batch, vocab_size, room, time.thread_time_ns, restores=True)


def measure_streams(
    vocab_size: int, streams: int, name: str, tokens_each: int, *, on_device: bool = False
) -> StreamSpeed:
    """``streams`` requests of ``tokens_each`` tokens through ``AsyncEngine``, each read by a task of its own."""
    return uvloop.run(_run_streams(vocab_size, streams, name, tokens_each, on_device=on_device))


async def _run_streams(vocab_size: int, streams: int, name: str, tokens_each: int, *, on_device: bool) -> StreamSpeed:
    kind = KINDS[name]

    def session() -> SyntheticSession:
        room = kind.prompt_tokens + tokens_each
        if on_device:
            return ChoosingSession(streams, vocab_size, room, time.perf_counter_ns)
        return SyntheticSession(streams, vocab_size, room, time.perf_counter_ns, restores=False)

    engine = AsyncEngine(session, _CONFIG)
    engine.start()
    try:
        await engine.wait_ready()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        opened = [engine.submit(one) for one in _requests(vocab_size, streams, kind, tokens_each)]
        counts = await asyncio.gather(*(_read(stream) for stream in opened))
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    finally:
        await engine.close()
    shown = f"{name} on device" if on_device else name
    return StreamSpeed(vocab_size, streams, shown, sum(counts), seconds, cpu_seconds)


async def _read(stream: EventStream) -> int:
    count = 0
    async for events in stream:
        _refuse_errors(events)
        count += sum(isinstance(event, TokenEvent) for event in events)
    return count


def _refuse_errors(events: Sequence[Event]) -> None:
    for event in events:
        if isinstance(event, FinishEvent) and event.error:
            raise BenchError(f"the engine ended a sequence with an error: {event.error}")


def _requests(vocab_size: int, count: int, kind: Kind, max_tokens: int) -> list[Request]:
    generator = np.random.default_rng(0)
    lowest = min(_FIRST_TOKEN_ID, vocab_size - 1)
    params = replace(kind.sampling, max_tokens=max_tokens)
    return [
        Request(
            request_id=f"r{index}",
            prompt_ids=tuple(generator.integers(lowest, vocab_size, kind.prompt_tokens).tolist()),
            sampling=params,
            eos_token_ids=frozenset(),
        )
        for index in range(count)
    ]
