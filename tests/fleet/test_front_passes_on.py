"""What the front hands on of a request and of its answer, whole or broken, and what it answers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api.clients.client import Clients
from api.edge.access import VISIT_KEY
from api.server_settings import Settings
from fleet.errors import CutOffError, ReplicaLostError
from fleet.relay.application import front_application
from fleet.relay.front import Front
from tests.fleet.test_front import ALPHA, CHAT, PACKAGES, PLAIN, Replicas, ask, keys, post, stream, whole

__all__ = ["keys"]
BODY = {"type": "http.request", "body": b"{}", "more_body": False}


def told(
    replicas: Replicas,
    *given: dict[str, Any],
    path: str = CHAT,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    settings: Settings = PLAIN,
    on_send: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """The messages that a client is sent, who gives these and nothing more."""
    sent: list[dict[str, Any]] = []
    rest = list(given)
    scope: Any = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers], "http_version": "1.1", "client": None, "scheme": "http",
    }  # fmt: skip

    async def receive() -> Any:
        return rest.pop(0)

    async def send(message: Any) -> None:
        on_send()
        sent.append(message)

    asyncio.run(front_application(replicas, settings, PACKAGES)(scope, receive, send))  # type: ignore[arg-type]
    return sent


def test_a_request_travels_whole_but_for_its_key(keys: Settings) -> None:
    """Every part of it that a replica's answer may depend on."""
    replicas = Replicas(whole(b"{}"))
    headers = [
        ("x-api-key", "alpha-secret"),
        ("x-session-id", "s"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-request-id", "mine"),
    ]

    async def work(client: httpx.AsyncClient) -> None:
        await client.put("/v1/some/thing?a=1&b=%20", content=b"a body", headers=headers)
        await client.post("/v1/some/thing", content=b"{}", headers=[*headers[:1], ("session-id", "s")])
        await client.post("/v1/some/thing", content=b"{}", headers=headers[:1])
        await client.head("/version", headers=headers[:1])

    ask(replicas, work, keys)
    seen, session, plain, head = replicas.seen
    assert (seen.method, seen.path, seen.query, seen.body) == ("PUT", "/v1/some/thing", b"a=1&b=%20", b"a body")
    assert (seen.http_version, seen.client) == ("1.1", ("127.0.0.1", 123))
    names = [name for name, _ in seen.headers]
    assert [value for name, value in seen.headers if name == b"x-a"] == [b"1", b"2"]
    assert [value for name, value in seen.headers if name == b"x-request-id"] == [b"mine"]
    assert b"x-api-key" not in names
    assert (seen.marks, len(session.marks), plain.marks) == ((), 1, ())
    assert (head.method, head.body) == ("GET", b"")  # the server below leaves the body out


def test_bodies_in_flight_are_counted_while_they_are(keys: Settings) -> None:
    until = asyncio.Event()

    async def work(client: httpx.AsyncClient) -> list[int]:
        begun = asyncio.Event()

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            begun.set()
            await stream(until=until)(scope, receive, send)

        replicas.app = waits
        first = asyncio.create_task(client.post(CHAT, content=b"x" * 60))
        await begun.wait()
        replicas.app = whole(b"{}")
        during = (await client.post(CHAT, content=b"x" * 60)).status_code
        until.set()
        await first
        return [during, *[(await client.post(CHAT, content=b"x" * 60)).status_code for _ in range(3)]]

    replicas = Replicas(whole(b"{}"))
    assert ask(replicas, work, Settings(max_in_flight_bytes=100)) == [429, 200, 200, 200]


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        (Settings(max_body_bytes=1000), 64 * 2**20),
        (Settings(max_body_bytes=2**21), 64 * 2**21),
        (Settings(max_body_bytes=2**21, max_in_flight_bytes=5), 5),
    ],
)
def test_bodies_in_flight_are_64_large_ones_unless_it_is_said(settings: Settings, most: int) -> None:
    assert Front(Replicas(whole(b"{}")), settings, PACKAGES, Clients())._budget._limit_bytes == most


def test_an_answer_that_is_no_stream_breaks_off_as_one_that_nobody_takes_for_whole() -> None:
    async def file(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
        await send({"type": "http.response.body", "body": b"a part", "more_body": True})
        await asyncio.Event().wait()

    with pytest.raises(CutOffError):
        post(Replicas(file, fails=ReplicaLostError("x"), after=1), {})


@pytest.mark.parametrize(
    ("path", "whole_end"),
    [
        (CHAT, b'"code":503}}\n\ndata: [DONE]\n\n'),
        ("/v1/messages", b'is gone","param":null}}\n\n'),
        ("/v1/messages/more", b'is gone","param":null}}\n\n'),
        ("/v1/responses", b'"param":null}\n\n'),
    ],
)
def test_a_broken_streams_last_event_is_whole_and_the_last_message(path: str, whole_end: bytes) -> None:
    replicas = Replicas(stream(b"data: 1\n\n", until=asyncio.Event()), fails=ReplicaLostError("killed"), after=1)
    sent = told(replicas, BODY, path=path)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert sent[-1]["body"].endswith(whole_end)
    assert [message["more_body"] for message in sent[1:]] == [False]


def test_paths_without_their_version_mean_the_same_to_the_front_where_they_are_asked_for() -> None:
    replicas = Replicas(whole(b"passed on"))

    async def paths(client: httpx.AsyncClient) -> dict[str, str]:
        names = (
            "/models",
            "/models/two",
            "/models/two/",
            "/health/live",
            "/health/ready",
            "/llm/v1/models",
            "/metrics",
        )
        return {name: (await client.get(name)).text[:9] for name in names}

    answers = ask(replicas, paths, Settings(unversioned_paths=True, root_path="/llm"))
    assert "passed on" not in answers.values()
    assert replicas.seen == []
    assert ask(replicas, paths)["/models"] == "passed on"
    lost = Replicas(whole(b"{}"), fails=ReplicaLostError("x"))
    assert post(lost, {}, "/messages", Settings(unversioned_paths=True)).json()["type"] == "error"


def test_what_is_no_question_is_a_replicas_to_refuse() -> None:
    replicas = Replicas(whole(b"passed on", status=405))
    for path in ("/v1/models", "/v1/health/ready", "/metrics"):
        assert post(replicas, {}, path).text == "passed on"


def test_a_client_that_leaves_before_its_body_is_sent_nothing_and_reaches_no_replica() -> None:
    replicas = Replicas(whole(b"{}"))
    sent = told(replicas, {"type": "http.disconnect"})
    assert (sent, replicas.seen) == ([], [])


def test_a_body_that_is_announced_as_too_large_is_not_waited_for() -> None:
    sent = told(Replicas(whole(b"{}")), headers=((b"content-length", b"1001"),), settings=Settings(max_body_bytes=1000))
    assert sent[0]["status"] == 413


def test_a_name_that_nobody_has_is_told_in_part() -> None:
    answer = ask(Replicas(whole(b"{}")), lambda client: client.get("/v1/models/" + "x" * 300))
    assert answer.json()["error"]["message"] == f"The model `{'x' * 256}` does not exist."


def test_what_is_refused_has_stopped_before_its_client_is_told(keys: Settings) -> None:
    order: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        scope["state"][VISIT_KEY].reserve(10, 95)  # of 100
        try:
            await asyncio.Event().wait()
        finally:
            order.append("stopped")

    key = ((b"authorization", b"Bearer alpha-secret"),)
    told(Replicas(app), BODY, headers=key, settings=keys, on_send=lambda: order.append("told"))
    assert order == ["stopped", "told", "told"]


@pytest.mark.parametrize("path", ["/v1/health/ready", "/v1/health/ready/", "/health", "/ping"])
def test_ready_is_200_while_a_replica_is(path: str) -> None:
    replicas = Replicas(whole(b"passed on"))
    assert ask(replicas, lambda client: client.get(path)).json()["message"] == "Service is ready."
    replicas.is_up = False
    answer = ask(replicas, lambda client: client.get(path))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_the_front_has_a_life_of_its_own_and_no_sockets_but_http() -> None:
    sent: list[str] = []

    async def run() -> None:
        app = front_application(Replicas(whole(b"{}")), PLAIN, PACKAGES)
        kinds = ["lifespan.shutdown", "lifespan.startup"]

        async def receive() -> Any:
            return {"type": kinds.pop()}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
        await app({"type": "websocket"}, receive, send)  # type: ignore[arg-type]

    asyncio.run(run())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_metrics_are_opened_by_what_may_read_them_and_hold_the_fronts_own_without_a_replica(keys: Settings) -> None:
    replicas = Replicas(whole(b"{}"))
    replicas.pages = {}
    settings = replace(keys, api_key=("boss=secret-of-the-boss",))
    boss = {"authorization": "Bearer secret-of-the-boss"}

    async def asked_and_read(client: httpx.AsyncClient) -> httpx.Response:
        for headers in (boss, ALPHA):
            await client.post(CHAT, content=b"{}", headers=headers)
        return await client.get("/v1/metrics", headers=boss)

    page = ask(replicas, asked_and_read, settings)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert 'replica="front"' in page.text
    for name, count in (("alpha", "1.0"), ("boss", "1.0"), ("scrape", "0.0")):  # each its own
        line = f'powertrain_client_requests_total{{client="{name}",model_name="team/one",replica="front"}} {count}'
        assert line in page.text
    assert ask(replicas, lambda client: client.get("/v1/metrics")).status_code == 200  # where no key is asked for


def test_the_edge_is_that_of_one_server(keys: Settings) -> None:
    """Refusals in a path's own form, what needs no key, other pages' scripts, and hosts where there are no keys."""
    replicas = Replicas(whole(b"passed on"))
    denied = post(replicas, {}, "/v1/messages", keys)
    assert (denied.status_code, denied.json()["type"]) == (401, "error")
    assert ask(replicas, lambda client: client.get("/docs"), keys).text == "passed on"
    page = {"origin": "https://page.example"}
    opened = replace(keys, cors_allow_origin=("https://page.example",))
    answer = ask(replicas, lambda client: client.get("/v1/health/live", headers=page), opened)
    assert answer.headers["access-control-allow-origin"] == "https://page.example"
    foreign = {"host": "page.example"}
    assert ask(replicas, lambda client: client.get("/v1/models", headers=foreign)).status_code == 403
    with_key = {**foreign, "authorization": "Bearer alpha-secret"}
    assert ask(replicas, lambda client: client.get("/v1/models", headers=with_key), keys).status_code == 200
