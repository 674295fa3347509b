"""Measures a server at its capacity and at three times it: who is served how soon, who is refused how fast.

    python -m tests.security.measure_overload [models/NAME] [--seconds 60] [--set NAME=VALUE ...]

Three phases on loopback: as many clients as there are slots, each waiting for its answer (the capacity); Poisson
arrivals at that rate; Poisson arrivals at ``--factor`` times it. The server is a process of its own. Beside the load a
probe asks for the server's health ten times a second, and the client's own event loop is watched: what it delays is
not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import random
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tests.paths import MODELS, ROOT
from tests.security.real_server import is_ready

_WORDS = ("river", "stone", "window", "garden", "letter", "engine", "planet", "music", "winter", "bridge")


@dataclass
class Phase:
    """What one phase saw; times in seconds."""

    ttft_s: list[float] = field(default_factory=list)
    refusal_s: list[float] = field(default_factory=list)
    retry_after: Counter[str] = field(default_factory=Counter)
    health_s: list[float] = field(default_factory=list)
    client_lag_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    duration_s: float = 0.0

    def line(self, name: str) -> str:
        """The phase as text."""
        return (
            f"{name}: {dict(self.statuses)} in {self.duration_s:.0f} s; TTFT p50 {_ms(self.ttft_s, 0.5)} "
            f"p99 {_ms(self.ttft_s, 0.99)}; refusals p50 {_ms(self.refusal_s, 0.5)} p99 {_ms(self.refusal_s, 0.99)}, "
            f"Retry-After {dict(sorted(self.retry_after.items()))}; health p99 {_ms(self.health_s, 0.99)}; "
            f"client's own lag p99 {_ms(self.client_lag_s, 0.99)}"
        )


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def _ms(values: list[float], share: float) -> str:
    return f"{_quantile(values, share) * 1e3:.0f} ms"


class Client:
    """Sends chats to one port, each over a connection of its own."""

    def __init__(self, port: int, max_tokens: int) -> None:
        self._port = port
        self._max_tokens = max_tokens
        self._rng = random.Random(3)

    async def chat(self, phase: Phase) -> int:
        """One streamed chat; notes when its first token or its refusal came. Returns the seconds of Retry-After."""
        text = " ".join(self._rng.choice(_WORDS) for _ in range(self._rng.randint(20, 120)))
        fields = {"messages": [{"role": "user", "content": text}], "stream": True}
        body = msgspec.json.encode({**fields, "max_tokens": self._max_tokens, "ignore_eos": True})
        begin = time.perf_counter()
        status, headers, reader, writer = await self._ask("POST", "/v1/chat/completions", body)
        phase.statuses[status] += 1
        if status == "200":
            while line := await reader.readline():
                if b'"content"' in line and b'"content":""' not in line:
                    phase.ttft_s.append(time.perf_counter() - begin)
                    break
            while await reader.read(65536):
                pass
        else:
            phase.refusal_s.append(time.perf_counter() - begin)
            phase.retry_after[headers.get("retry-after", "none")] += 1
        writer.close()
        return int(headers.get("retry-after", 0))

    async def health(self, phase: Phase) -> None:
        """Ask for the server's health again and again."""
        while True:
            begin = time.perf_counter()
            *_, reader, writer = await self._ask("GET", "/v1/health/ready", b"")
            await reader.read()
            phase.health_s.append(time.perf_counter() - begin)
            writer.close()
            before = time.perf_counter()
            await asyncio.sleep(0.1)
            phase.client_lag_s.append(time.perf_counter() - before - 0.1)

    async def _ask(
        self, method: str, path: str, body: bytes
    ) -> tuple[str, dict[str, str], asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        status = (await reader.readline()).decode().split(" ")[1]
        headers: dict[str, str] = {}
        while line := (await reader.readline()).decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, reader, writer


async def _closed(client: Client, num_clients: int, seconds: float) -> Phase:
    phase, end = Phase(), time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            retry_s = await client.chat(phase)
            await asyncio.sleep(retry_s)

    return await _watched(client, phase, asyncio.gather(*(one() for _ in range(num_clients))))


async def _open(client: Client, rate_per_s: float, seconds: float) -> Phase:
    phase, rng = Phase(), random.Random(7)

    async def all_of_them() -> None:
        end = time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            while time.perf_counter() < end:
                group.create_task(client.chat(phase))
                await asyncio.sleep(rng.expovariate(rate_per_s))

    return await _watched(client, phase, all_of_them())


async def _watched(client: Client, phase: Phase, load: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> Phase:
    begin = time.perf_counter()
    probe = asyncio.create_task(client.health(phase))
    await load
    probe.cancel()
    phase.duration_s = time.perf_counter() - begin
    return phase


def _resident_mib(process: subprocess.Popen[bytes]) -> float:
    pages = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize() / 2**20


def _gauges(port: int) -> list[str]:

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return [line for line in lines if line.startswith(("num_requests_running", "num_requests_waiting"))]


def _measure(process: subprocess.Popen[bytes], port: int, options: argparse.Namespace) -> None:
    while not is_ready(port):
        time.sleep(0.2)
    client = Client(port, options.max_tokens)
    asyncio.run(_closed(client, options.clients, 5))  # warms up
    capacity = asyncio.run(_closed(client, options.clients, min(20.0, options.seconds)))
    rate = capacity.statuses["200"] / capacity.duration_s
    print(capacity.line(f"{options.clients} clients, {rate:.2f} requests/s"), flush=True)
    full = asyncio.run(_open(client, rate, options.seconds))
    print(full.line("at capacity"), f"; {_resident_mib(process):.0f} MiB", flush=True)
    over = asyncio.run(_open(client, options.factor * rate, options.seconds))
    print(over.line(f"at {options.factor:g} times it"), f"; {_resident_mib(process):.0f} MiB", flush=True)
    time.sleep(2)
    print("afterwards:", *_gauges(port), f"{_resident_mib(process):.0f} MiB")
    ratio = _quantile(over.ttft_s, 0.99) / _quantile(full.ttft_s, 0.99)
    print(f"p99 TTFT of the accepted: {ratio:.2f} times that at capacity")


def main() -> None:
    """Run the phases and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=MODELS / "smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=16, help="the server's slots")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    flags = [part for setting in options.set for part in ("--" + setting.replace("_", "-")).split("=", 1)]
    command = [sys.executable, "-m", "powertrain", "serve", str(options.model), "--port", str(port), *flags]
    with subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT) as process:
        try:
            _measure(process, port, options)
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
