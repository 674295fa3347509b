"""Tokenizing, streaming, leaving and shutting down at the same time: no answer mixes with another's, nothing hangs.

Repeats the causes of llama.cpp's CVE-2026-43632 (tokenize endpoints against an unload) and CVE-2026-107183 (a parser
used after its end), and of TensorRT-LLM's CVE-2026-24205.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx

from tests.api.programs import IM_END
from tests.api.scripted_server import RunningServer, chunks_of, content_of, running_server, user

ENDED = {200, 429, 503}


async def tokenize(client: httpx.AsyncClient, number: int) -> int:
    text = f"text {number} <|im_end|>"
    response = await client.post("/tokenize", json={"prompt": text})
    if response.status_code == 200:
        assert response.json()["tokens"] == list(text.encode())
        back = await client.post("/detokenize", json={"tokens": [*text.encode(), IM_END]})
        assert back.status_code not in {200} or back.json()["prompt"].startswith(text[:-10])
    return response.status_code


async def stream(client: httpx.AsyncClient, number: int) -> int:
    text = f"answer {number}"
    response = await client.post("/v1/chat/completions", json={"messages": [user(text)], "stream": True})
    if response.status_code == 200:
        chunks = chunks_of(response.content)
        assert "error" in chunks[-1] or content_of(chunks) == text
    return response.status_code


async def leave(client: httpx.AsyncClient, _number: int) -> int:
    body: dict[str, Any] = {"messages": [user("*ab")], "stream": True, "max_tokens": 200}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for _ in response.aiter_bytes():
            break
    return response.status_code


async def render(client: httpx.AsyncClient, number: int) -> int:
    body = {"messages": [user(f"<|im_start|>{number}")]}
    response = await client.post("/v1/chat/completions/render", json=body)
    if response.status_code == 200:
        assert f"<|im_start|>{number}" in response.json()["prompt"]
    return response.status_code


async def hammer(server: RunningServer, *, stop_after: int | None) -> list[int]:
    """Status of each of 120 requests; after ``stop_after`` of them the server is told to stop."""
    statuses: list[int] = []

    async def one(client: httpx.AsyncClient, number: int) -> None:
        kind = (tokenize, stream, leave, render)[number % 4]
        with contextlib.suppress(httpx.TransportError):
            statuses.append(await kind(client, number))
        if stop_after is not None and len(statuses) == stop_after:
            server.server.handle_exit(15, None)

    async with httpx.AsyncClient(base_url=server.base_url, timeout=20) as client:
        await asyncio.gather(*(one(client, number) for number in range(120)))
    return statuses


def test_tokenizing_beside_streams_that_end_and_leave() -> None:
    with running_server(max_queue=200, max_predicted_wait_s=0.0, max_queue_time_s=0.0) as server:
        statuses = asyncio.run(hammer(server, stop_after=None))
        assert statuses == [200] * 120
        server.wait_idle()
        assert server.service.engine.stats().num_running == 0


def test_a_shutdown_in_the_middle_ends_every_request() -> None:
    with running_server(max_queue=200, max_predicted_wait_s=0.0, max_queue_time_s=0.0, drain_timeout_s=5.0) as server:
        statuses = asyncio.run(hammer(server, stop_after=30))
        assert set(statuses) <= ENDED
        assert statuses.count(200) >= 30
        server.wait_for(lambda: server.service.engine.num_live == 0)
