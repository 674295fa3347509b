"""The front's whole application: the edge's layers around ``Front``, and what a proxy of its own habits needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from api.clients.client import Clients
from api.controllers.docs import keyless_paths
from api.edge.access import Edge
from api.edge.cors import Cors
from api.edge.hosts import host_rule
from api.edge.keys import KeyRing, key_ring
from api.edge.paths import Paths, path_rule
from api.server_settings import Settings
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from fleet.relay.front import Engines, Front
from fleet.relay.packages import Packages
from fleet.relay.stream_end import error_body

_KNOWN_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/health/live",
    "/v1/health/ready",
    "/v1/messages",
    "/v1/metrics",
    "/metrics",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/responses",
)
"""What the front answers, or ends, by its path; a replica knows the rest, under the same setting."""


def front_application(engines: Engines, settings: Settings, packages: Packages) -> ASGIApp:
    """The application for whoever has one of the settings' keys. Raises SettingsError for unusable keys.

    Limits hold over all replicas, because every request comes through here.
    """
    keys, clients = key_ring(settings), Clients()
    clients.limit(keys.limits)
    edge = Edge(
        Front(engines, settings, packages, clients),
        keys,
        KeyRing(),
        host_rule(settings, has_keys=bool(keys)),
        lambda _status: None,
        error_body=error_body,
        keyless=keyless_paths(settings),
    )
    layers = Paths(Cors(edge, settings.cors_allow_origin), path_rule(settings, _KNOWN_PATHS))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if str(scope["type"]) == "lifespan":
            await _live(receive, send)
        else:
            await layers(scope, receive, send)

    return application


def without_request_id(app: ASGIApp) -> ASGIApp:
    """``app`` for a proxy that gives each request an id, and tells it to the client itself."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [item for item in message["headers"] if item[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_without)

    return application


async def _live(receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """ASGI's lifespan of an application that starts and ends nothing."""
    kind = ""
    while kind != "lifespan.shutdown":
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
