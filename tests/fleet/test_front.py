"""The front over replicas that are small ASGI applications: keys, limits, failures, what replicas are told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from litestar import Request
from litestar.types import ASGIApp

import powertrain_ray
from api.clients.client import Client, Clients
from api.clients.visit import Visit
from api.controllers.intake import _enter
from api.controllers.service import Service
from api.edge.access import API_KEY_KEY, VISIT_KEY
from api.edge.api_key import ApiKey, Role
from api.errors import SettingsError
from api.server_settings import Settings
from api.settings import ResolvedSettings
from fleet.errors import FleetError, ReplicaLostError
from fleet.process.serving import serve_fleet
from fleet.relay.answering import answer_pieces
from fleet.relay.application import front_application, without_request_id
from fleet.relay.metric_pages import merged_pages
from fleet.relay.packages import FleetPackage, Packages
from fleet.relay.wire import Forwarded, Piece
from runtime.commands.surroundings import Surroundings
from runtime.errors import EngineUnavailable

PACKAGES = Packages(
    [
        FleetPackage(names=("team/one", "one"), folder=Path("one"), created_unix=1, max_model_len=64),
        FleetPackage(names=("two",), folder=Path("two"), created_unix=2, max_model_len=32),
    ]
)
CHAT = "/v1/chat/completions"
JSON_HEADERS = [(b"content-type", b"application/json"), (b"x-request-id", b"of-the-replica")]
PLAIN = Settings()
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
PAGE = '# HELP n_total N.\n# TYPE n_total counter\nn_total{kind="x"} 2.0\n'


@dataclass
class Replicas:
    """One replica that runs ``app``; ``fails`` is raised after so many pieces."""

    app: ASGIApp
    fails: Exception | None = None
    after: int = 0
    is_up: bool = True
    seen: list[Forwarded] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=lambda: {"a": PAGE, "b": PAGE})

    async def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        self.seen.append(request)
        number = 0
        pieces = answer_pieces(self.app, request)
        try:
            while self.fails is None or number < self.after:
                try:
                    yield await anext(pieces)
                except StopAsyncIteration:
                    return
                number += 1
            assert self.fails is not None
            raise self.fails
        finally:
            await pieces.aclose()

    async def is_ready(self) -> bool:
        return self.is_up

    async def metric_pages(self) -> dict[str, str]:
        return self.pages


def whole(text: bytes, *, status: int = 200, prompt: int = 0, most: int = 0, generated: int = 0) -> ASGIApp:
    """Answers at once, after reserving as the API does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] is not None
        if most and (visit := scope["state"].get(VISIT_KEY)) is not None:
            visit.reserve(prompt, most)
            await asyncio.sleep(0)
            visit.charge(lambda: (prompt, generated), is_whole=True)
        await send({"type": "http.response.start", "status": status, "headers": JSON_HEADERS})
        await send({"type": "http.response.body", "body": text, "more_body": False})

    return app


def stream(*events: bytes, until: asyncio.Event | None = None) -> ASGIApp:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for event in events:
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": event, "more_body": True})
        if until is not None:
            await until.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


def ask(replicas: Replicas, work: Callable[[httpx.AsyncClient], Awaitable[Any]], settings: Settings = PLAIN) -> Any:
    async def run() -> Any:
        app = front_application(replicas, settings, PACKAGES)
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await work(client)

    return asyncio.run(run())


def post(
    replicas: Replicas, body: Any, path: str = CHAT, settings: Settings = PLAIN, headers: dict[str, str] | None = None
) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(replicas, lambda client: client.post(path, content=content, headers=headers), settings)


@pytest.fixture
def keys(tmp_path: Path) -> Settings:
    """Keys ``alpha-secret`` with limits, ``metrics-secret`` for metrics."""
    file = tmp_path / "keys.toml"
    alpha, scrape = (hashlib.sha256(secret).hexdigest() for secret in (b"alpha-secret", b"metrics-secret"))
    file.write_text(
        f'[[key]]\nname = "alpha"\nsha256 = "{alpha}"\nrequests_per_minute = 3\ntokens_per_minute = 100\n'
        f'[[key]]\nname = "scrape"\nsha256 = "{scrape}"\nrole = "metrics"\n'
    )
    file.chmod(0o600)
    return Settings(keys_file=str(file))


ALPHA = {"authorization": "Bearer alpha-secret", "content-type": "application/json"}


def test_an_answer_is_passed_on_and_the_replica_told_what_it_needs() -> None:
    replicas = Replicas(whole(b'{"x": 1}'))
    asked = {"model": "two", "messages": [{"role": "user", "content": "a"}]}
    answer = post(replicas, asked, headers={"x-request-id": "id-1"})
    assert (answer.status_code, answer.content) == (200, b'{"x": 1}')
    assert answer.headers.get_list("x-request-id") == ["id-1"]  # the replica's own goes nowhere
    (told,) = replicas.seen
    assert (told.package, told.key_name, len(told.marks)) == ("two", None, 1)
    assert (b"x-request-id", b"id-1") in told.headers
    assert post(replicas, {"messages": []}).status_code == 200
    assert post(replicas, {"model": "nobody"}).status_code == 200
    assert post(replicas, b"no json").status_code == 200  # the replica says what is wrong
    assert [request.package for request in replicas.seen[1:]] == ["team/one"] * 3


def test_a_key_never_reaches_a_replica_but_its_name_does(keys: Settings) -> None:
    replicas = Replicas(whole(b"{}"))
    assert post(replicas, {}, settings=keys).status_code == 401
    assert not replicas.seen
    assert post(replicas, {}, settings=keys, headers=ALPHA).status_code == 200
    assert (replicas.seen[0].key_name, replicas.seen[0].key_role) == ("alpha", "client")
    assert not [name for name, _ in replicas.seen[0].headers if name in {b"authorization", b"x-api-key"}]
    body = {"messages": [{"role": "user", "content": "a"}]}
    post(replicas, body, settings=keys, headers=ALPHA)
    post(replicas, body, settings=replace(keys, share_prefix_cache=True), headers=ALPHA)
    assert replicas.seen[1].marks != replicas.seen[2].marks  # what no other key's cache holds is not looked for there


def test_a_replica_is_told_what_a_key_opens_so_a_clients_key_is_no_admins(keys: Settings) -> None:
    roles: list[Role] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        roles.append(scope["state"][API_KEY_KEY].role)
        await whole(b"{}")(scope, receive, send)

    settings = replace(keys, api_key=("boss=secret-of-the-boss",))
    for headers in (ALPHA, {"authorization": "Bearer secret-of-the-boss"}):
        post(Replicas(app), {}, "/v1/load_lora_adapter", settings, headers)
    assert roles == [Role.CLIENT, Role.ADMIN]


def test_limits_are_counted_once_for_all_replicas(keys: Settings) -> None:
    replicas = Replicas(whole(b"{}", prompt=10, most=60, generated=5))

    async def four(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.post(CHAT, content=b"{}", headers=ALPHA) for _ in range(4)]

    answers = ask(replicas, four, keys)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["2", "1", "0", "0"]
    assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers][:3] == ["85", "70", "55"]
    assert int(answers[3].headers["retry-after"]) in {19, 20}
    assert len(replicas.seen) == 3


@pytest.mark.parametrize(("most", "status", "words"), [(95, 400, "never be served"), (60, 429, "tokens per minute")])
def test_tokens_are_reserved_before_the_answer(keys: Settings, most: int, status: int, words: str) -> None:
    ended = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        scope["state"][VISIT_KEY].reserve(10, most)
        try:
            await asyncio.Event().wait()  # generating
        finally:
            ended.append(scope["state"][API_KEY_KEY].name)

    first = Replicas(app)

    async def two(client: httpx.AsyncClient) -> httpx.Response:
        waiting = [asyncio.create_task(client.post(CHAT, content=b"{}", headers=ALPHA)) for _ in range(2)]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        return done.pop().result()

    refused = ask(first, two, keys)
    assert refused.status_code == status
    assert words in refused.json()["error"]["message"]
    assert ended == ["alpha", "alpha"]  # what is refused, and what its client gave up, stops


def test_a_crowded_replica_costs_no_request_of_the_limit(keys: Settings) -> None:
    replicas = Replicas(whole(b"{}", status=429))

    async def five(client: httpx.AsyncClient) -> list[int]:
        return [(await client.post(CHAT, content=b"{}", headers=ALPHA)).status_code for _ in range(5)]

    assert ask(replicas, five, keys) == [429] * 5
    assert len(replicas.seen) == 5  # none was refused here


@pytest.mark.parametrize(
    ("path", "last"),
    [
        (CHAT, b"data: [DONE]\n\n"),
        ("/v1/completions", b"data: [DONE]\n\n"),
        ("/v1/messages", b'"type":"overloaded_error"'),
        ("/v1/responses", b"event: error\n"),
    ],
)
def test_a_lost_replica_ends_a_stream_with_an_error(path: str, last: bytes) -> None:
    replicas = Replicas(stream(b"data: 1\n\n", until=asyncio.Event()), fails=ReplicaLostError("killed"), after=1)
    answer = post(replicas, {}, path)
    assert answer.status_code == 200
    assert b"is gone" in answer.content
    assert last in answer.content
    assert b"killed" not in answer.content


def test_failures_before_the_first_byte_are_answers() -> None:
    lost = post(Replicas(whole(b"{}"), fails=ReplicaLostError("pid 3")), {})
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "2")
    assert "pid" not in lost.text
    none = post(Replicas(whole(b"{}"), fails=EngineUnavailable("no replica took it")), {}, "/v1/messages")
    assert (none.status_code, none.json()["error"]["type"]) == (503, "overloaded_error")
    large = post(Replicas(whole(b"{}")), b"x" * 2000, settings=Settings(max_body_bytes=1000))
    assert (large.status_code, large.headers["connection"]) == (413, "close")


def test_what_the_front_answers_itself(keys: Settings) -> None:
    replicas = Replicas(whole(b"passed on"))

    async def paths(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
        names = ("/v1/health/ready", "/health", "/v1/models", "/v1/models/two", "/v1/models/x", "/metrics", "/version")
        return {name: await client.get(name) for name in names}

    answers = ask(replicas, paths)
    assert [card["id"] for card in answers["/v1/models"].json()["data"]] == ["team/one", "one", "two"]
    assert answers["/v1/models/two"].json()["max_model_len"] == 32
    assert answers["/v1/models/x"].status_code == 404
    assert answers["/version"].text == "passed on"
    assert 'n_total{kind="x",replica="b"} 2.0' in answers["/metrics"].text
    replicas.is_up = False
    answers = ask(replicas, paths)
    assert answers["/v1/health/ready"].status_code == answers["/health"].status_code == 503
    assert ask(replicas, lambda client: client.get("/v1/health/live")).status_code == 200
    client_key = ask(replicas, lambda client: client.get("/metrics", headers=ALPHA), keys)
    assert client_key.status_code == 403
    scrape = {"authorization": "Bearer metrics-secret"}
    page = ask(replicas, lambda client: client.get("/metrics", headers=scrape), keys)
    assert 'powertrain_client_requests_total{client="alpha",model_name="team/one",replica="front"} 0.0' in page.text


def test_merged_pages_keep_families_together() -> None:
    page = merged_pages({"b": PAGE, "a": PAGE})
    assert page.count("# TYPE n_total counter") == 1
    samples = [line for line in page.splitlines() if not line.startswith("#")]
    assert samples == ['n_total{kind="x",replica="a"} 2.0', 'n_total{kind="x",replica="b"} 2.0']


def test_messages_that_nobody_waited_for_travel_together() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await send({"type": "http.response.body", "body": b"1", "more_body": False})

    async def run() -> list[Piece]:
        return [piece async for piece in answer_pieces(app, request())]

    (piece,) = asyncio.run(run())
    assert [message["type"] for message in piece.messages] == ["http.response.start", "http.response.body"]


def test_a_fault_of_the_application_is_raised_and_a_reader_that_leaves_disconnects_it() -> None:
    async def broken(_scope: Any, _receive: Any, _send: Any) -> None:
        raise ZeroDivisionError

    left = []

    async def patient(_scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        await receive()
        try:
            await receive()
        finally:
            left.append(True)

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await anext(answer_pieces(broken, request()))
        pieces = answer_pieces(patient, request())
        assert (await anext(pieces)).messages
        await pieces.aclose()

    asyncio.run(run())
    assert left == [True]


def test_a_request_keeps_the_visit_that_a_front_has_begun() -> None:
    """A replica's own limits know nobody: without that, every request with a key would be a fault."""
    begun = Visit(Client("alpha", lambda: 0))
    state = {API_KEY_KEY: ApiKey("alpha", b""), VISIT_KEY: begun}
    scope: Any = {"type": "http", "state": state, "headers": [], "method": "POST"}
    _enter(Request(scope), cast("Service", SimpleNamespace(clients=Clients())))
    assert state[VISIT_KEY] is begun


def test_an_id_that_a_proxy_tells_is_not_told_twice() -> None:
    app = without_request_id(front_application(Replicas(whole(b"{}")), Settings(), PACKAGES))

    async def run() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:  # type: ignore[arg-type]
            return await client.post(CHAT, content=b"{}")

    assert "x-request-id" not in asyncio.run(run()).headers


def test_without_ray_the_line_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fleet.on_ray.cluster", None)
    with pytest.raises(FleetError, match=r"need Ray Serve: .*pip install 'ray\[serve\]"):
        serve_fleet(ResolvedSettings(Settings(), {}), Surroundings())


def test_a_certificate_is_looked_at_before_ray_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POWERTRAIN_RAY_PYTHON", raising=False)  # the tests', and no setting
    missing = Settings(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    with pytest.raises(SettingsError, match=r"tls_cert: .*cert.pem is not readable"):
        serve_fleet(ResolvedSettings(missing, {}), Surroundings())
    with pytest.raises(SettingsError, match="the proxy is Ray's here"):
        powertrain_ray.app({"tls_cert": "cert.pem", "tls_key": "key.pem"})


def request() -> Forwarded:
    return Forwarded(
        method="POST",
        path=CHAT,
        query=b"",
        headers=(),
        http_version="1.1",
        client=None,
        body=b"{}",
        key_name=None,
        package="two",
    )
