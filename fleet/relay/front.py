"""The front's end of the relay: an ASGI application that takes requests in, and passes on what a replica answers.

Owns what must be one for all replicas: keys, hosts, the clients' limits, the list of models, health, the bytes in
flight. Bodies are read whole, since the choice of a replica needs them. Knows replicas through ``Engines`` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from api.clients.client import Clients
from api.clients.visit import Visit
from api.controllers.management import HealthBody
from api.edge.access import API_KEY_KEY, REQUEST_ID_KEY, VISIT_KEY
from api.edge.api_key import ApiKey, Role
from api.edge.keys import KEY_HEADERS
from api.error_answer import ErrorAnswer, answer_from
from api.errors import ClientGoneError, ForbiddenError, NotFoundError
from api.observe.client_metrics import ClientFamilies
from api.observe.metrics import CONTENT_TYPE
from api.request.body_limits import body_limits
from api.request.byte_budget import ByteBudget
from api.request.json_body import read_body
from api.response.sse import encode_json
from api.server_settings import Settings
from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send
from prometheus_client import CollectorRegistry, generate_latest
from runtime.errors import EngineUnavailable, Overloaded, PowertrainError

from fleet.errors import ReplicaLostError
from fleet.relay.metric_pages import merged_pages
from fleet.relay.packages import Packages
from fleet.relay.passing_on import PassingOn
from fleet.relay.stream_end import error_body
from fleet.relay.wire import Forwarded, Headers, Piece
from fleet.routing.marks import Asked, asked_of

SESSION_HEADERS = (b"x-session-id", b"session-id")
"""Headers that name a conversation outright; a request with one is routed by it alone."""
_OWN_NAME = "front"  # where a page of metrics names replicas
_LEAST_BUDGET_BYTES = 64 * 2**20
_BODIES_IN_BUDGET = 64
_METRICS = frozenset({"/v1/metrics", "/metrics"})
_READY = frozenset({"/v1/health/ready", "/health", "/ping"})
_OWN_HEADERS = KEY_HEADERS | {b"x-request-id"}


class Engines(Protocol):
    """The replicas, whatever carries requests to them."""

    def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        """The pieces of a replica's answer; closing the generator ends the work on it.

        Raises ReplicaLostError when the replica is gone, EngineUnavailable when there is none.
        """
        ...

    async def is_ready(self) -> bool:
        """True when some replica would answer now; within a few seconds."""
        ...

    async def metric_pages(self) -> dict[str, str]:
        """Each replica's metrics in Prometheus' text format, by the replica's name."""
        ...


class Front:
    """The application beneath the edge, which has checked the key. Call it for HTTP only."""

    def __init__(self, engines: Engines, settings: Settings, packages: Packages, clients: Clients) -> None:
        self._engines = engines
        self._packages = packages
        self._clients = clients
        self._registry = CollectorRegistry()
        self._registry.register(ClientFamilies(packages.base_name(None), clients))
        self._shares = settings.share_prefix_cache
        self._max_bytes = body_limits(packages.max_model_len, settings.max_body_bytes).max_bytes
        self._budget = ByteBudget(
            settings.max_in_flight_bytes or max(_LEAST_BUDGET_BYTES, _BODIES_IN_BUDGET * self._max_bytes)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing is sent to a client that is gone. Other than HTTP is left alone."""
        if scope["type"] != ScopeType.HTTP:
            return
        path = scope["path"]
        try:
            if scope["method"] == "GET" and (own := await self._own_answer(scope)) is not None:
                await _send_whole(send, 200, own[1], own[0])
                return
            await self._pass_on(scope, receive, send)
        except ClientGoneError:
            return
        except PowertrainError as error:
            answer = answer_from(_told(error))
            visit: Visit | None = scope["state"].get(VISIT_KEY)
            if visit is not None and (answer.status >= 500 or isinstance(error, Overloaded)):
                visit.take_back()  # as a server of one engine does
            await _refuse(send, path, answer)

    async def _own_answer(self, scope: HTTPScope) -> tuple[bytes, Headers] | None:
        """Body and headers of what the front answers itself. Raises what a refusal is made from."""
        path = scope["path"].rstrip("/") or "/"
        if path == "/v1/health/live":
            return _json(HealthBody(message="Service is live."))
        if path in _READY:
            if not await self._engines.is_ready():
                raise EngineUnavailable("no replica is ready")
            return _json(HealthBody(message="Service is ready."))
        if path in _METRICS:
            key: ApiKey | None = scope["state"].get(API_KEY_KEY)
            if key is not None and key.role is Role.CLIENT:
                raise ForbiddenError(
                    "This API key does not open metrics: they need one with the role metrics or admin."
                )
            pages = await self._engines.metric_pages()
            page = merged_pages({**pages, _OWN_NAME: generate_latest(self._registry).decode()})
            return page.encode(), ((b"content-type", CONTENT_TYPE.encode()),)
        if path == "/v1/models":
            return _json(self._packages.listing())
        if path.startswith("/v1/models/"):
            return self._one_model(path.removeprefix("/v1/models/").strip("/"))
        return None

    def _one_model(self, name: str) -> tuple[bytes, Headers]:
        card = next((card for card in self._packages.listing().data if card.id == name), None)
        if card is None:
            raise NotFoundError(f"The model `{name[:256]}` does not exist.", "model")
        return _json(card)

    async def _pass_on(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        visit = self._enter(scope)
        hold = self._budget.hold()
        try:
            length = dict(scope["headers"]).get(b"content-length")
            body = await read_body(receive, length.decode("latin-1") if length else None, self._max_bytes, hold)
            request = self._forwarded(scope, body)
            passing = PassingOn(send, visit, request.path)
            async with contextlib.aclosing(self._engines.answer(request)) as pieces:
                await passing.run(pieces)
        finally:
            hold.release()

    def _enter(self, scope: HTTPScope) -> Visit | None:
        """Begin the client's visit, as a server of one engine does for each request with a body; the edge ends it."""
        key: ApiKey | None = scope["state"].get(API_KEY_KEY)
        if key is None or scope["method"] != "POST":
            return None
        visit = scope["state"][VISIT_KEY] = Visit(self._clients[key.name])
        visit.enter()
        return visit

    def _forwarded(self, scope: HTTPScope, body: bytes) -> Forwarded:
        key: ApiKey | None = scope["state"].get(API_KEY_KEY)
        domain = "" if key is None or self._shares else key.name
        session = next((value for name, value in scope["headers"] if name in SESSION_HEADERS), None)
        asked = asked_of(body, domain, session.decode("latin-1") if session else None) if body else Asked()
        passed = tuple((name, value) for name, value in scope["headers"] if name not in _OWN_HEADERS)
        client = scope["client"]
        return Forwarded(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"],
            headers=(*passed, (b"x-request-id", scope["state"][REQUEST_ID_KEY].encode())),
            http_version=scope["http_version"],
            client=None if client is None else (client[0], client[1]),
            body=body,
            key_name=None if key is None else key.name,
            key_role=None if key is None else key.role.value,
            package=self._packages.base_name(asked.model),
            marks=asked.marks,
        )


def _told(error: PowertrainError) -> PowertrainError:
    """What a client may know of a lost replica: that it may ask again."""
    if isinstance(error, ReplicaLostError):
        return EngineUnavailable("the replica that worked on this request is gone; try again")
    return error


def _json(value: Any) -> tuple[bytes, Headers]:  # noqa: ANN401 - whatever encodes
    return encode_json(value), ((b"content-type", b"application/json"),)


async def _refuse(send: Send, path: str, answer: ErrorAnswer) -> None:
    headers = ((name.encode(), value.encode()) for name, value in answer.headers.items())
    await _send_whole(send, answer.status, ((b"content-type", b"application/json"), *headers), error_body(path, answer))


async def _send_whole(send: Send, status: int, headers: Headers, body: bytes) -> None:
    whole = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": whole})
    await send({"type": "http.response.body", "body": body, "more_body": False})
