"""A replica's end of the relay: what an application is told of a request, and how its messages become pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.clients.visit import Visit
from api.edge.access import API_KEY_KEY, VISIT_KEY
from api.edge.api_key import ApiKey, Role
from fleet.relay.answering import answer_pieces
from fleet.relay.wire import Forwarded, Piece, Reserve
from tests.fleet.ray_double import all_of
from tests.fleet.test_front import CHAT, EVENTS, request

START = {"type": "http.response.start", "status": 200, "headers": EVENTS}


def body(text: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": more}


def keyed(role: str | None = "metrics") -> Forwarded:
    return Forwarded(
        method="PUT",
        path="/v1/ä",
        query=b"a=1",
        headers=((b"x-a", b"1"), (b"x-a", b"2")),
        http_version="2",
        client=("192.0.2.1", 7),
        body=b"the body",
        key_name="alpha",
        key_role=role,
        package="two",
    )


def test_an_application_is_told_all_of_a_request() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope, await receive()])
        await send(body(b"", more=False))

    assert len(asyncio.run(all_of(answer_pieces(app, keyed())))) == 1
    scope, message = seen
    state = scope.pop("state")
    assert scope == {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "2", "method": "PUT",
        "scheme": "http", "path": "/v1/ä", "raw_path": "/v1/ä".encode(), "query_string": b"a=1", "root_path": "",
        "headers": [(b"x-a", b"1"), (b"x-a", b"2")], "client": ("192.0.2.1", 7), "server": None, "extensions": {},
    }  # fmt: skip
    assert message == {"type": "http.request", "body": b"the body", "more_body": False}
    assert state[API_KEY_KEY] == ApiKey("alpha", b"", Role.METRICS)
    assert isinstance(state[VISIT_KEY], Visit)


@pytest.mark.parametrize("forwarded", [request(), keyed(None)])
def test_without_a_role_a_key_opens_the_least_and_without_a_key_there_is_none(forwarded: Forwarded) -> None:
    states: list[dict[str, Any]] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        states.append(scope["state"])
        await send(body(b"", more=False))

    asyncio.run(all_of(answer_pieces(app, forwarded)))
    (state,) = states
    if forwarded.key_name is None:
        assert state == {}
    else:
        assert state[API_KEY_KEY].role is Role.CLIENT


def test_each_piece_tells_what_was_used_so_far_and_the_reserve_comes_first_and_once() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        visit, used = scope["state"][VISIT_KEY], [10, 0]
        visit.enter()
        visit.reserve(10, 60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        visit.charge(lambda: (used[0], used[1]), is_whole=True)
        await send(START)
        for text in (b"1", b"2"):
            used[1] += 1
            await send(body(text))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        visit.take_back()
        visit.leave()
        assert visit.headers() == {}  # the front's affair
        used[1] += 1
        await send(body(b"", more=False))

    pieces = asyncio.run(all_of(answer_pieces(app, keyed("client"))))
    assert pieces == [
        Piece(reserve=Reserve(num_prompt_tokens=10, max_generated=60)),
        Piece(messages=(START, body(b"1")), used=(10, 1), is_whole=True),
        Piece(messages=(body(b"2"),), used=(10, 2), is_whole=True),
        Piece(messages=(body(b"", more=False),), used=(10, 3), is_whole=True),
    ]


def test_what_is_said_while_a_reader_is_away_waits_for_it() -> None:
    ended = asyncio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await send(body(b"last", more=False))
        ended.set()

    async def run() -> list[Piece]:
        pieces = answer_pieces(app, request())
        found = [await anext(pieces)]
        await ended.wait()
        await asyncio.sleep(0)  # the application has returned
        return [*found, *await all_of(pieces)]

    last = Piece(messages=(body(b"last", more=False),))
    assert asyncio.run(run()) == [Piece(messages=(START,)), last]


def test_what_was_said_before_a_fault_is_passed_on() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send(START)
        raise ZeroDivisionError

    async def run() -> None:
        pieces = answer_pieces(app, request())
        assert await anext(pieces) == Piece(messages=(START,))
        with pytest.raises(ZeroDivisionError):
            await anext(pieces)

    asyncio.run(run())


def test_a_reader_that_leaves_is_a_client_that_leaves() -> None:
    ends: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "http.request"
        gone = asyncio.ensure_future(receive())
        await send(START)
        try:
            await asyncio.Event().wait()
        finally:
            ends.append(await gone)  # what waits for the client's end, as a stream does, sees it

    async def run() -> None:
        pieces = answer_pieces(app, request())
        await anext(pieces)
        await pieces.aclose()

    asyncio.run(run())
    assert ends == [{"type": "http.disconnect"}]
    assert request().path == CHAT
