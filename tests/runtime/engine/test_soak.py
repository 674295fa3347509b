"""Ten thousand short requests with random aborts leave slots, threads, file handles and memory where they were."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from pathlib import Path

from runtime.engine.async_engine import AsyncEngine
from runtime.engine.config import EngineConfig
from runtime.errors import Overloaded
from runtime.events import FinishEvent, TokenEvent
from tests.fakes import ScriptedSession, adding
from tests.runtime.engine_driver import adding_reply, request

NUM_REQUESTS = 10_000
CLIENTS = 24
"""Whatever a request left behind would be a block of memory at least."""
ALLOWED_BLOCKS = NUM_REQUESTS // 5


async def one(engine: AsyncEngine, number: int, chance: random.Random) -> None:
    prompt = [chance.randrange(500) for _ in range(chance.randrange(1, 20))]
    length = chance.randrange(1, 6)
    try:
        stream = engine.submit(request(f"r{number}", prompt, max_tokens=length, n=chance.choice((1, 1, 1, 2))))
    except Overloaded:
        return
    leaves = chance.random() < 0.2
    tokens: dict[int, list[int]] = {}
    ends = 0
    async for events in stream:
        for event in events:
            if isinstance(event, TokenEvent):
                tokens.setdefault(event.index, []).append(event.token_id)
            ends += isinstance(event, FinishEvent)
        if leaves:
            stream.abort()
    assert ends == stream.request.n
    for generated in tokens.values():
        assert generated == adding_reply(prompt, length)[: len(generated)]


async def client(engine: AsyncEngine, numbers: range) -> None:
    chance = random.Random(numbers.start)
    for number in numbers:
        await one(engine, number, chance)


async def load(engine: AsyncEngine, first: int, count: int) -> None:
    share = count // CLIENTS
    await asyncio.gather(*(client(engine, range(first + i * share, first + (i + 1) * share)) for i in range(CLIENTS)))


def measure() -> tuple[int, int, int]:
    gc.collect()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), sys.getallocatedblocks()


def test_soak() -> None:
    session = ScriptedSession(adding, num_slots=8, max_model_len=64)

    async def body() -> None:
        engine = AsyncEngine(lambda: session, EngineConfig(max_queue=20))
        engine.start()
        await engine.wait_ready()
        await load(engine, 0, NUM_REQUESTS // 10)  # fills caches that are meant to stay
        session.calls.clear()
        before = measure()
        await load(engine, NUM_REQUESTS, NUM_REQUESTS)
        session.calls.clear()
        threads, handles, blocks = measure()
        assert threads <= before[0]  # fewer when something of an earlier test ended meanwhile
        assert handles <= before[1]
        assert blocks < before[2] + ALLOWED_BLOCKS
        stats = engine.stats()
        assert (stats.num_running, stats.num_waiting, stats.kv_used_tokens, engine.num_live) == (0, 0, 0, 0)
        await engine.close()

    asyncio.run(body())
