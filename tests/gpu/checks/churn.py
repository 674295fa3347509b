"""Requests over HTTP that come and leave all the time: nobody's answer depends on who shares the batch.

A lone request's answer is the reference. Rounding may differ between batches, so an answer may leave the reference
where two tokens were nearly as likely, and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx

from tests.gpu.checks.rig import CheckFailed, Rig, prompt

_PROMPTS, _ROUNDS, _CLIENTS = 5, 4, 12
_TOKENS, _SEEN_BEFORE_LEAVING = 12, 3
_TIE_NATS = 0.3
"""How much likelier the reference's token may be where an answer leaves it."""


@dataclass(frozen=True)
class Token:
    """A token's text, and the log-probabilities of the likeliest ones in its place."""

    text: str
    top: dict[str, float]


def slots_under_load_with_aborts(rig: Rig) -> str:
    model = rig.model()
    vocab_size = model.package.manifest.shape.vocab_size
    prompts = [prompt(150 + seed, 9 + 4 * seed, vocab_size).tolist() for seed in range(_PROMPTS)]
    with rig.serve(model) as address:
        return asyncio.run(_run(address, prompts))


async def _run(address: str, prompts: list[list[int]]) -> str:
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        alone = [await _answer(client, ids) for ids in prompts]
        whole = left = 0
        for round_number in range(_ROUNDS):
            jobs = [
                _leave(client, prompts[number % _PROMPTS])
                if number % 3 == 2
                else _answer(client, prompts[number % _PROMPTS])
                for number in range(round_number, round_number + _CLIENTS)
            ]
            for number, answer in zip(
                range(round_number, round_number + _CLIENTS), await asyncio.gather(*jobs), strict=True
            ):
                if number % 3 == 2:
                    left += 1
                else:
                    compare(alone[number % _PROMPTS], answer, f"prompt {number % _PROMPTS}")
                    whole += 1
        for number, ids in enumerate(prompts):
            compare(alone[number], await _answer(client, ids), f"prompt {number}, alone again")
        await _wait_until_idle(client)
    return f"{whole} whole answers and {left} left early"


def compare(expected: list[Token], answer: list[Token], what: str) -> None:
    """Raise CheckFailed where ``answer`` leaves ``expected`` although its token was the clear choice."""
    if len(answer) != len(expected):
        raise CheckFailed(f"{what}: {len(answer)} tokens came, {len(expected)} were asked for")
    for place, (wanted, got) in enumerate(zip(expected, answer, strict=True)):
        if got.text == wanted.text:
            continue
        gap = wanted.top[wanted.text] - wanted.top.get(got.text, -100.0)
        if gap > _TIE_NATS:
            raise CheckFailed(
                f"{what}: token {place} is {got.text!r}, alone it was {wanted.text!r}, {gap:.2g} nats likelier"
            )
        return  # from here on they are different texts


def _body(ids: list[int]) -> dict[str, Any]:
    return {"prompt": ids, "max_tokens": _TOKENS, "temperature": 0, "logprobs": 5, "ignore_eos": True, "stream": True}


async def _answer(client: httpx.AsyncClient, ids: list[int]) -> list[Token]:
    tokens: list[Token] = []
    async with client.stream("POST", "/v1/completions", json=_body(ids)) as response:
        if response.status_code != 200:
            raise CheckFailed(f"the server answered {response.status_code}: {(await response.aread())[:300]!r}")
        async for line in response.aiter_lines():
            tokens += _tokens(line)
    return tokens


async def _leave(client: httpx.AsyncClient, ids: list[int]) -> list[Token]:
    """Hang up after a few tokens."""
    tokens: list[Token] = []
    async with client.stream("POST", "/v1/completions", json=_body(ids)) as response:
        async for line in response.aiter_lines():
            tokens += _tokens(line)
            if len(tokens) >= _SEEN_BEFORE_LEAVING:
                return tokens
    return tokens


def _tokens(line: str) -> list[Token]:
    if not line.startswith("data: {"):
        return []
    event = json.loads(line.removeprefix("data: "))
    if "choices" not in event:
        raise CheckFailed(f"the stream broke: {line[:300]}")
    tokens = []
    for choice in event["choices"]:
        logprobs = choice.get("logprobs") or {"tokens": [], "top_logprobs": []}
        tokens += [Token(*pair) for pair in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)]
    return tokens


async def _wait_until_idle(client: httpx.AsyncClient) -> None:
    """Those who left are noticed within a step or two; the server must come to rest and stay ready."""
    for _ in range(600):
        page = (await client.get("/v1/metrics")).text
        busy = [
            line for line in page.splitlines() if line.startswith(("num_requests_running{", "num_requests_waiting{"))
        ]
        if not busy:
            raise CheckFailed("the metrics do not tell how many requests run")
        if all(float(line.rpartition(" ")[2]) == 0 for line in busy):
            break
        await asyncio.sleep(0.05)
    else:
        raise CheckFailed(f"requests are still running: {busy}")
    if (await client.get("/v1/health/ready")).status_code != 200:
        raise CheckFailed("the server is not ready after the load")
