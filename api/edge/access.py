"""The outermost layer: request ids, keys, request lines in the log. Wraps the whole application, unknown paths too.

Pure ASGI, outside Litestar, because Litestar runs its middleware only for routes that exist: a key must be asked for
everywhere. Deny by default: the two health probes are the only open paths. Knows no route's meaning.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.errors import ErrorAnswer
from api.observe.request_record import RequestRecord

REQUEST_ID_KEY = "powertrain_request_id"
RECORD_KEY = "powertrain_record"
IGNORED_KEY = "powertrain_ignored_fields"

OPEN_PATHS = frozenset({"/v1/health/live", "/v1/health/live/", "/v1/health/ready", "/v1/health/ready/"})
_QUIET_PATHS = OPEN_PATHS | {"/v1/metrics", "/metrics"}
_SAFE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LOG = logging.getLogger("powertrain.requests")


class Edge:
    """ASGI wrapper around the application. ``api_keys`` empty asks for no key."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._keys = tuple(key.encode("ascii") for key in api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; other than HTTP passes through."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started_ns = time.perf_counter_ns()
        request_id = _request_id(scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state[REQUEST_ID_KEY] = request_id
        status = 499  # nothing was sent: the client closed the connection first

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if self._keys and not self._may_enter(scope):
                await _refuse(send_with_id)
            elif scope["method"] == HttpMethod.HEAD:  # the server below leaves the body out
                await self._app({**scope, "method": HttpMethod.GET}, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            _log(scope, status, started_ns)

    def _may_enter(self, scope: HTTPScope) -> bool:
        if scope["path"] in OPEN_PATHS:
            return True
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if scope["method"] == HttpMethod.OPTIONS and not headers and _is_preflight(scope):
            return True
        if len(headers) != 1:  # none, or an attempt to smuggle a second one
            return False
        scheme, _, token = headers[0].partition(b" ")
        # Every key is compared, and in constant time, so that timing tells nothing about any of them.
        matches = [hmac.compare_digest(token.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def _is_preflight(scope: HTTPScope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"origin" in names and b"access-control-request-method" in names


def _request_id(scope: HTTPScope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return uuid.uuid4().hex


async def _refuse(send: Send) -> None:
    answer = ErrorAnswer(401, "A valid API key is required: send 'Authorization: Bearer <key>'.")
    body = answer.body()
    headers = [
        (b"content-type", b"application/json"),
        (b"www-authenticate", b"Bearer"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _log(scope: HTTPScope, status: int, started_ns: int) -> None:
    level = logging.DEBUG if scope["path"] in _QUIET_PATHS else logging.INFO
    if not _LOG.isEnabledFor(level):
        return
    state: dict[str, Any] = scope["state"]
    fields: dict[str, object] = {
        "id": state[REQUEST_ID_KEY],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "total_ms": round((time.perf_counter_ns() - started_ns) / 1e6, 2),
    }
    record: RequestRecord | None = state.get(RECORD_KEY)
    if record is not None:
        fields |= {
            "model": record.model,
            "prompt_tokens": record.num_prompt_tokens,
            "completion_tokens": record.num_generated,
            "queue_ms": None if record.queue_s is None else round(record.queue_s * 1e3, 2),
            "ttft_ms": None if record.ttft_s is None else round(record.ttft_s * 1e3, 2),
            "finish": ",".join(record.finish_reasons[index] for index in sorted(record.finish_reasons)),
        }
    if ignored := state.get(IGNORED_KEY):
        fields["ignored_fields"] = ",".join(ignored)[:256]
    _LOG.log(level, "request", extra={"fields": fields})
