"""A mixed load over HTTP for as long as wanted: what must hold while it runs, and what must be as before afterwards.

``python -m tests.reliability.soak --seconds 600`` prints a report and ends with 1 when a promise was broken. The
server is a process of its own over the scripted session, whose every step takes a fixed time. As many clients as it
has slots ask for 80 % of their time each and pause for the rest, whatever else the machine does. After a tenth of the
time to warm up, the same requests come twice, so that the halves differ by what the server became in between only.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tests.api.scripted_server import NUM_SLOTS, chunks_of, content_of, user
from tests.reliability.server_process import ServerProcess, server_process

LOAD = 0.8
STEP_S = 0.01
TEXTS = 1000
"""Different short answers. The tokenizer remembers the last 10,000 words that it cut: 1.5 MB that new words would fill
for the first 11,000 requests, after which the memory stays as it is."""
SAMPLES = 60
"""Looks at memory, threads and handles while it runs."""


@dataclass
class Outcome:
    """What a run found. ``broken`` names each promise that did not hold."""

    seconds: float = 0.0
    done: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    latencies: list[list[float]] = field(default_factory=list)  # seconds of the plain short answers, by part
    resident: list[tuple[float, int]] = field(default_factory=list)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)

    def drift(self) -> tuple[float, float]:
        """The 99th percentile of the first and of the second half, in seconds."""
        first, second = self.latencies[-2:]
        return float(np.percentile(first, 99)), float(np.percentile(second, 99))

    def slope(self) -> float:
        """Growth of the resident memory in bytes per second, by least squares over the last two thirds."""
        late = [(when, size) for when, size in self.resident if when > self.seconds / 3]
        return float(np.polyfit([when for when, _ in late], [size for _, size in late], 1)[0])


class Load:
    """One run's clients."""

    def __init__(self, server: ServerProcess, outcome: Outcome) -> None:
        self.server, self.outcome = server, outcome
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self.client = httpx.AsyncClient(base_url=server.base_url, timeout=30, limits=limits)
        self.kinds: list[tuple[float, Callable[[random.Random], Awaitable[None]]]] = [
            (0.44, self.short), (0.12, self.long_prompt), (0.08, self.choices), (0.08, self.sampled),
            (0.06, self.constrained), (0.06, self.slow_reader), (0.06, self.leaves), (0.10, self.bad),
        ]  # fmt: skip

    async def one(self, chance: random.Random) -> None:
        """A request of a random kind; what goes wrong is noted, never raised."""
        weights = [weight for weight, _ in self.kinds]
        kind = chance.choices([kind for _, kind in self.kinds], weights)[0]
        name = kind.__name__
        try:
            await kind(chance)
        except (httpx.HTTPError, AssertionError, LookupError) as error:
            self.outcome.broken.append(f"{name}: {type(error).__name__} {error!s:.200}")
        self.outcome.done[name] += 1

    async def short(self, chance: random.Random) -> None:
        text = f"answer {chance.randrange(TEXTS)}"
        begin = time.monotonic()
        assert await self.streamed(text) == text
        self.outcome.latencies[-1].append(time.monotonic() - begin)

    async def long_prompt(self, chance: random.Random) -> None:
        text = "x" * chance.randrange(100, 180)
        assert await self.streamed(text, max_tokens=5) == text[:5]

    async def choices(self, chance: random.Random) -> None:
        text = f"three {chance.randrange(100)}"
        response = await self.post(text, n=3)
        assert response.status_code == 200, response.text
        assert [choice["message"]["content"] for choice in response.json()["choices"]] == [text] * 3

    async def sampled(self, _chance: random.Random) -> None:
        fields = {"temperature": 1, "seed": 7, "max_tokens": 8}
        texts = {(await self.post("?", **fields)).json()["choices"][0]["message"]["content"] for _ in range(2)}
        assert len(texts) == 1

    async def constrained(self, chance: random.Random) -> None:
        pattern = f"[a-m]{{{chance.randrange(2, 10)}}}!"
        response = await self.post("?", temperature=1, guided_regex=pattern, max_tokens=20)
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "stop"
        assert re.fullmatch(pattern, choice["message"]["content"])

    async def slow_reader(self, _chance: random.Random) -> None:
        body = self.body("*abcd", stream=True, max_tokens=40)
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            received = b""
            async for piece in response.aiter_bytes(64):
                received += piece
                await asyncio.sleep(0.001)
        assert content_of(chunks_of(received)) == "abcd" * 10

    async def leaves(self, _chance: random.Random) -> None:
        body = self.body("*abcd", stream=True, max_tokens=200)
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for _ in response.aiter_bytes():
                return

    async def bad(self, chance: random.Random) -> None:
        body: dict[str, Any] = chance.choice(
            [{"top_p": 2}, {"messages": []}, {"model": "other"}, {"min_tokens": 300}, {"max_tokens": 10**6}]
        )
        response = await self.client.post("/v1/chat/completions", json={**self.body("x"), **body})
        assert response.status_code in {400, 404}, response.text

    def body(self, text: str, **fields: Any) -> dict[str, Any]:
        return {"messages": [user(text)], "temperature": 0, **fields}

    async def post(self, text: str, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json=self.body(text, **fields))

    async def streamed(self, text: str, **fields: Any) -> str:
        response = await self.post(text, stream=True, **fields)
        assert response.status_code == 200, response.text
        return content_of(chunks_of(response.content))


async def _part(load: Load, seconds: float, seed: int, began: float) -> None:
    """``NUM_SLOTS`` clients, each busy for ``LOAD`` of its time. Returns when all have their last answer."""
    load.outcome.latencies.append([])
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        chance = random.Random(seed * NUM_SLOTS + number)
        while (begin := time.monotonic()) < end:
            await load.one(chance)
            took = time.monotonic() - begin
            await asyncio.sleep(chance.expovariate(LOAD / (1 - LOAD) / took))

    async def look() -> None:
        while (now := time.monotonic()) < end:
            load.outcome.resident.append((now - began, load.server.resident_bytes()))
            await asyncio.sleep(load.outcome.seconds / SAMPLES)

    await asyncio.gather(look(), *(client(number) for number in range(NUM_SLOTS)))


async def _run(server: ServerProcess, seconds: float, seed: int) -> Outcome:
    outcome = Outcome(seconds=seconds)
    load = Load(server, outcome)
    await _part(load, 0.1 * seconds, seed, began := time.monotonic())
    await _settle(load)
    outcome.before = server.num_threads(), server.num_handles()
    for _ in range(2):
        await _part(load, 0.45 * seconds, seed + 1, began)
    await _settle(load)
    outcome.after = server.num_threads(), server.num_handles()
    await load.client.aclose()
    for name in ("num_requests_running", "num_requests_waiting", "gpu_cache_usage_perc"):
        if (value := server.gauge(name)) != 0:
            outcome.broken.append(f"{name} is {value} at the end")
    if outcome.after[0] > outcome.before[0] + 2 or outcome.after[1] > outcome.before[1]:
        outcome.broken.append(f"threads and handles were {outcome.before}, are {outcome.after}")
    if server.process.poll() is not None:
        outcome.broken.append("the server is gone")
    return outcome


async def _settle(load: Load) -> None:
    """Close this side's idle connections, and wait until the server has noticed."""
    await load.client.aclose()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    load.client = httpx.AsyncClient(base_url=load.server.base_url, timeout=30, limits=limits)
    last, since = -1, time.monotonic()
    while time.monotonic() < since + 0.2:
        await asyncio.sleep(0.02)
        if (now := load.server.num_handles()) != last:
            last, since = now, time.monotonic()


def soak(seconds: float, seed: int = 1) -> Outcome:
    """Run the load for ``seconds``."""
    with server_process(step_s=STEP_S, settings="max_queue=256, max_predicted_wait_s=0") as server:
        return asyncio.run(_run(server, seconds, seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--promises-only", action="store_true", help="judge neither memory nor latency")
    options = parser.parse_args()
    outcome = soak(options.seconds)
    (first, last), slope = outcome.drift(), outcome.slope()
    if slope > 2000 and not options.promises_only:
        outcome.broken.append(f"memory grows by {slope:.0f} bytes a second")
    if last > 1.1 * first and not options.promises_only:
        outcome.broken.append(f"the 99th percentile went from {first * 1e3:.1f} to {last * 1e3:.1f} ms")
    print(f"{NUM_SLOTS} slots, each asked for {LOAD:.0%} of {outcome.seconds:.0f} s")
    print(f"requests {sum(outcome.done.values())}: {dict(outcome.done)}")
    print(f"threads, handles before {outcome.before} after {outcome.after}")
    sizes = [size / 2**20 for _, size in outcome.resident]
    print(f"resident MiB: first {sizes[0]:.1f}, a third in {sizes[len(sizes) // 3]:.1f}, last {sizes[-1]:.1f}")
    print(f"slope {slope:.0f} bytes/s; p99 {first * 1e3:.1f} ms then {last * 1e3:.1f} ms ({last / first - 1:+.1%})")
    print(f"broken: {len(outcome.broken)}")
    for line in outcome.broken[:20]:
        print(" ", line)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
