"""Taking in a request: its body within the limits, its turn, who it comes from. Knows no field's meaning."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from api.client_gone import unless_gone
from api.clients.visit import Visit
from api.controllers.service import Service
from api.edge.access import API_KEY_KEY, REQUEST_ID_KEY, VISIT_KEY
from api.edge.api_key import ApiKey
from api.request.json_body import check_content_type, read_body
from api.request.sampling_fields import SamplingFields
from api.request.turns import INLINE_BYTES

AnyRequest = Request[Any, Any, Any]
Result = TypeVar("Result")

HOLD_KEY = "powertrain_hold"
LEASE_KEY = "powertrain_lease"


class Releasable(Protocol):
    """What a request holds of something that it shares with others."""

    def release(self) -> None:
        """Give it back. Idempotent."""


async def receive_body(request: AnyRequest, service: Service) -> bytes:
    """The request's body, once its client's limits have room for it: every request with a body counts.

    Raises ClientLimitError, RequestError, BodyTooLargeError, Overloaded or ClientGoneError.
    """
    _enter(request, service)
    headers = request.headers
    check_content_type(headers.get("content-type"), headers.get("content-encoding"))
    hold = request.scope["state"][HOLD_KEY] = service.reception.budget.hold()
    limit_bytes = service.reception.limits.max_bytes
    return await read_body(request.receive, headers.get("content-length"), limit_bytes, hold)


def _enter(request: AnyRequest, service: Service) -> None:
    """Begin the visit of the client whose key a request carries. The edge ends it, and tells of it in headers.

    A request that a front of several engines has let in brings its visit along.
    """
    key = key_of(request)
    if key is not None and visit_of(request) is None:
        visit = request.scope["state"][VISIT_KEY] = Visit(service.clients[key.name])
        visit.enter()


async def in_turn(
    request: AnyRequest, service: Service, size_bytes: int, work: Callable[[], Coroutine[Any, Any, Result]]
) -> Result:
    """What ``work`` makes of a body of ``size_bytes``; work on a large one waits for its turn.

    Raises ClientGoneError when the client leaves meanwhile, Overloaded when too much work waits.
    """
    if size_bytes <= INLINE_BYTES:
        return await work()
    return await unless_gone(request.receive, service.reception.turns.take(size_bytes, work))


def releasing(app: ASGIApp) -> ASGIApp:
    """``app``, with what each request holds, of the budget and of a model, given back at its end, however it ends."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            state: dict[str, Any] = scope.get("state", {})
            for key in (HOLD_KEY, LEASE_KEY):
                held: Releasable | None = state.get(key)
                if held is not None:
                    held.release()

    return serve


def request_id_of(request: AnyRequest) -> str:
    """The id that the client gave or the server chose."""
    return str(request.scope["state"][REQUEST_ID_KEY])


def key_of(request: AnyRequest) -> ApiKey | None:
    """The API key that a request came with; None where none is asked for."""
    key: ApiKey | None = request.scope["state"].get(API_KEY_KEY)
    return key


def visit_of(request: AnyRequest) -> Visit | None:
    """The visit of its client that a request is; None where no key is asked for."""
    visit: Visit | None = request.scope["state"].get(VISIT_KEY)
    return visit


def cache_salt_of(request: AnyRequest, service: Service, fields: SamplingFields) -> str:
    """What separates this request's cached prefixes from others': the key it came with and its own ``cache_salt``.

    Without keys, or when the operator lets keys share, the salt alone. No two pairs give the same text. Where a salt is
    required for sharing, a request without one gets a fresh one that nobody else has.
    """
    if service.settings.prefix_cache_salt == "required" and not fields.cache_salt:
        return new_id("unshared:")
    shares = service.settings.share_prefix_cache
    key = None if shares else key_of(request)
    domain = "" if key is None else key.name
    return f"{domain}:{fields.cache_salt or ''}" if domain or fields.cache_salt else ""


def new_id(prefix: str) -> str:
    """A fresh answer id: the prefix and 32 lowercase hex digits."""
    return prefix + uuid.uuid4().hex
