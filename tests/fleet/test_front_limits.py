"""What becomes of a client's limits at the front: what is charged, given back, and by whose fault a request fails."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from api.edge.access import API_KEY_KEY, VISIT_KEY
from api.server_settings import Settings
from fleet.errors import ReplicaLostError
from runtime.errors import EngineUnavailable, Overloaded
from tests.fleet.test_front import ALPHA, CHAT, EVENTS, Replicas, ask, keys, stream, whole

__all__ = ["keys"]
OVERLOADED = Overloaded("too many requests wait for a replica")


def posts(replicas: Replicas, count: int, settings: Settings, path: str = CHAT) -> list[httpx.Response]:
    """One after the other, with the client's key."""

    async def work(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post(path, content=b"{}", headers=ALPHA) for _ in range(count)]

    answers: list[httpx.Response] = ask(replicas, work, settings)
    return answers


def left(answer: httpx.Response) -> tuple[str, str]:
    """Requests and tokens that the client has left."""
    return answer.headers["x-ratelimit-remaining-requests"], answer.headers["x-ratelimit-remaining-tokens"]


@pytest.mark.parametrize(
    ("fails", "status"), [(ReplicaLostError("x"), 503), (EngineUnavailable("none"), 503), (OVERLOADED, 429)]
)
def test_what_no_replica_answers_costs_nothing(keys: Settings, fails: Exception, status: int) -> None:
    replicas = Replicas(whole(b"{}"), fails=fails)
    answers = posts(replicas, 5, keys)
    assert [answer.status_code for answer in answers] == [status] * 5
    assert {left(answer) for answer in answers} == {("3", "100")}
    assert len(replicas.seen) == 5


@pytest.mark.parametrize(("status", "costs"), [(400, 1), (404, 1), (429, 0), (500, 0), (503, 0), (200, 1)])
def test_a_clients_own_mistake_counts_and_a_servers_does_not(keys: Settings, status: int, costs: int) -> None:
    (answer,) = posts(Replicas(whole(b"{}", status=status)), 1, keys)
    assert (answer.status_code, left(answer)) == (status, (str(3 - costs), "100"))


def test_a_body_too_large_counts_and_one_too_many_does_not(keys: Settings) -> None:
    large = Settings(keys_file=keys.keys_file, max_body_bytes=1)
    (answer,) = posts(Replicas(whole(b"{}")), 1, large)
    assert (answer.status_code, left(answer)) == (413, ("2", "100"))
    crowded = Settings(keys_file=keys.keys_file, max_in_flight_bytes=1)
    (answer,) = posts(Replicas(whole(b"{}")), 1, crowded)
    assert (answer.status_code, left(answer)) == (429, ("3", "100"))


def test_a_refusal_of_the_clients_own_limit_stays_one(keys: Settings) -> None:
    answers = posts(Replicas(whole(b"{}", prompt=10, most=60, generated=60)), 2, keys)
    assert [answer.status_code for answer in answers] == [200, 429]
    assert left(answers[1]) == ("2", "30")  # 10 and 60 of 100 were used; a refusal takes neither


def counting(*used: tuple[int, int], fails: bool = False) -> Any:
    """A stream that reserves 10 + 60 tokens, and has used so many with each of its events."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        visit, now = scope["state"][VISIT_KEY], [used[0]]
        visit.reserve(10, 60)
        visit.charge(lambda: now[0], is_whole=False)
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for one in used:
            now[0] = one
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if fails:
            await asyncio.Event().wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def test_a_stream_is_charged_what_it_had_used_at_its_end(keys: Settings) -> None:
    first, second = posts(Replicas(counting((10, 1), (10, 2), (10, 3))), 2, keys)
    assert left(first) == ("2", "30")  # told at its beginning: all that it may use is taken
    assert left(second) == ("1", "17")  # 100 - 13 - 70


def test_a_lost_stream_is_charged_what_it_had_used(keys: Settings) -> None:
    lost = Replicas(counting((10, 1), (10, 2), fails=True), fails=ReplicaLostError("x"), after=2)
    first, second = posts(lost, 2, keys)
    assert b"is gone" in first.content
    assert left(second) == ("1", "18")  # 100 - 12 - 70


def test_a_place_is_free_again_however_a_request_ends(keys: Settings, tmp_path: Any) -> None:
    text = (tmp_path / "keys.toml").read_text()
    (tmp_path / "keys.toml").write_text(text.replace("requests_per_minute = 3", "max_concurrency = 1"))
    for replicas in (
        Replicas(whole(b"{}")),
        Replicas(whole(b"{}"), fails=ReplicaLostError("x")),
        Replicas(stream(b"data: 1\n\n")),
    ):
        assert 429 not in [answer.status_code for answer in posts(replicas, 3, keys)]

    async def two(client: httpx.AsyncClient) -> list[int]:
        until = asyncio.Event()
        begun = asyncio.Event()

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await stream(b"data: 1\n\n", until=until)(scope, receive, send)

        replicas.app = waits
        first = asyncio.create_task(client.post(CHAT, content=b"{}", headers=ALPHA))
        await begun.wait()
        refused = await client.post(CHAT, content=b"{}", headers=ALPHA)
        first.cancel()
        await asyncio.wait([first])
        until.set()
        again = await client.post(CHAT, content=b"{}", headers=ALPHA)
        return [refused.status_code, again.status_code]

    replicas = Replicas(whole(b"{}"))
    assert ask(replicas, two, keys) == [429, 200]


def test_without_keys_nothing_is_counted() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert VISIT_KEY not in scope["state"]
        assert API_KEY_KEY not in scope["state"]
        await whole(b"{}")(scope, receive, send)

    answers = posts(Replicas(app), 4, Settings())
    assert [answer.status_code for answer in answers] == [200] * 4
    assert "x-ratelimit-remaining-requests" not in answers[0].headers


def test_only_what_has_a_body_counts(keys: Settings) -> None:
    async def gets(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get("/version", headers=ALPHA)).status_code for _ in range(5)]

    replicas = Replicas(whole(b"{}"))
    assert ask(replicas, gets, keys) == [200] * 5
    assert {request.key_name for request in replicas.seen} == {"alpha"}
