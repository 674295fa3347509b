"""Two real replicas on loopback, with Ray Serve between: runs where POWERTRAIN_RAY_PYTHON names a Python that has ray.

``make test-ray`` makes that Python and sets the variable; ray never enters the default environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.fleet.on_ray import MODEL, PYTHON, SECOND, Fleet, metrics, running_fleet, wait_for

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(PYTHON is None, reason="POWERTRAIN_RAY_PYTHON is not set; 'make test-ray' sets it"),
    pytest.mark.timeout(600),
]
LOST_S = 30
"""The longest that a lost replica's requests may take to end, and that new ones may fail after it."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


def test_a_stream_is_what_one_server_would_send(fleet: Fleet) -> None:
    client = fleet.client()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Count to five."}], "temperature": 0}
    whole = client.chat.completions.create(**asked, max_tokens=24)  # type: ignore[call-overload]
    chunks = list(
        client.chat.completions.create(**asked, max_tokens=24, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) >= whole.usage.completion_tokens  # token by token, not at once
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x"}], max_tokens=100_000)


def test_what_the_front_answers_itself(fleet: Fleet) -> None:
    assert MODEL in [card.id for card in fleet.client().models.list()]
    assert httpx.get(f"{fleet.url}/v1/health/ready").json()["message"] == "Service is ready."
    answer = httpx.get(f"{fleet.url}/v1/health/live")
    assert answer.status_code == 200
    assert len(answer.headers.get_list("x-request-id")) == 1
    page = metrics(fleet)
    names = {line.partition('replica="')[2].partition('"')[0] for line in page.splitlines() if "replica=" in line}
    assert len(names - {"front"}) == 2


def test_nothing_listens_beyond_this_machine(fleet: Fleet) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert fleet.addresses() <= loopback
    assert fleet.addresses()


def test_replicas_stand_back_for_nobody(fleet: Fleet) -> None:
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in fleet.engines()] == [0, 0]


def test_conversations_return_to_the_replica_that_holds_their_cache(fleet: Fleet) -> None:
    async def talk(client: openai.AsyncOpenAI, number: int) -> list[bool]:
        history = [{"role": "system", "content": "You are brief."}]
        returned = []
        before = 0
        for turn in range(4):
            history.append({"role": "user", "content": f"Conversation {number}, question {turn}: name a colour."})
            answer = await client.chat.completions.create(model=MODEL, messages=history, max_tokens=8)  # type: ignore[arg-type]
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            cached = answer.usage.prompt_tokens_details.cached_tokens or 0
            if turn:
                returned.append(cached >= before)
            before = answer.usage.prompt_tokens
            history.append({"role": "assistant", "content": answer.choices[0].message.content or ""})
        return returned

    async def crowd() -> list[list[bool]]:
        async with fleet.ask() as client:
            return await asyncio.gather(*(talk(client, number) for number in range(4)))

    turns = [turn for talked in asyncio.run(crowd()) for turn in talked]
    assert len(turns) == 12
    assert sum(turns) / len(turns) >= 0.9, turns
    # Both replicas had a part of it: each has counted prompt tokens.
    page = metrics(fleet)
    counts = [float(line.split()[-1]) for line in page.splitlines() if line.startswith("prompt_tokens_total{")]
    assert len(counts) == 2
    assert min(counts) > 0


def test_a_client_that_leaves_ends_the_work(fleet: Fleet) -> None:
    with fleet.client() as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell a long story."}],
            max_tokens=900,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        assert sum(running(fleet)) == 1
        stream.close()
    for _ in range(200):
        if sum(running(fleet)) == 0:
            break
    assert sum(running(fleet)) == 0


def running(fleet: Fleet) -> list[float]:
    """Requests that run in each replica."""
    lines = metrics(fleet).splitlines()
    return [float(line.split()[-1]) for line in lines if line.startswith("num_requests_running{")]


def test_another_package_is_loaded_when_it_is_asked_for_and_makes_room_again(fleet: Fleet) -> None:
    client = fleet.client()
    assert {MODEL, SECOND} <= {card.id for card in client.models.list()}
    asked = {"messages": [{"role": "user", "content": "Name a colour."}], "temperature": 0, "max_tokens": 6}
    answers = {
        model: client.chat.completions.create(model=model, **asked)  # type: ignore[call-overload]
        for model in (MODEL, SECOND, MODEL)
    }
    assert answers[SECOND].model == SECOND
    assert answers[SECOND].choices[0].message.content == answers[MODEL].choices[0].message.content


def test_an_update_fails_no_request(fleet: Fleet) -> None:
    before = fleet.engines()
    assert len(before) == 2

    async def ask_on() -> list[str]:
        answers: list[str] = []
        async with fleet.ask() as client:
            while "every replica is replaced" not in fleet.log:
                answer = await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"Say {len(answers)}."}],
                    max_tokens=4,
                )
                answers.append(answer.choices[0].finish_reason)
        return answers

    async def crowd() -> list[list[str]]:
        return list(await asyncio.gather(ask_on(), ask_on(), ask_on()))

    fleet.process.send_signal(signal.SIGHUP)
    answers = [reason for asked in asyncio.run(crowd()) for reason in asked]
    assert len(answers) > 6
    assert set(answers) <= {"length", "stop"}
    after = fleet.engines()
    assert len(after - before) == 2


def test_a_lost_replica_ends_its_streams_and_nobody_elses(fleet: Fleet) -> None:
    async def stream(client: openai.AsyncOpenAI, number: int) -> str:
        text = ""
        try:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"{number}: tell a long story."}],
                max_tokens=400,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            async for chunk in answer:
                text += chunk.choices[0].delta.content or ""
                begun[number].set()
        except openai.APIError as error:
            return "lost" if "gone" in str(error) else str(error)
        return "whole"

    begun = [asyncio.Event() for _ in range(4)]

    async def scene() -> list[str]:
        async with fleet.ask() as client:
            tasks = [asyncio.create_task(stream(client, number)) for number in range(4)]
            for one in begun:
                await one.wait()
            os.kill(min(fleet.engines()), signal.SIGKILL)
            async with asyncio.timeout(LOST_S):
                while not any(task.done() for task in tasks):
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # New requests succeed while the replica is being replaced.
            for number in range(3):
                await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": f"new {number}"}], max_tokens=2
                )
            return await asyncio.gather(*tasks)

    ends = asyncio.run(scene())
    assert sorted(ends) == ["lost", "lost", "whole", "whole"]  # the least loaded replica had each, so two and two
    for _ in range(600):
        if len(fleet.engines()) == 2:
            break
        wait_for(fleet, "Serving")
        httpx.get(f"{fleet.url}/v1/health/ready", timeout=10)
    assert len(fleet.engines()) == 2
