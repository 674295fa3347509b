"""The outermost layer: request ids, hosts, keys, request lines in the log. Wraps the whole application, unknown paths
too.

Pure ASGI, outside Litestar, because Litestar runs its middleware only for routes that exist: a key must be asked for
everywhere. Deny by default: open are the health probes, and whatever is named in ``keyless``. Knows no route's
meaning.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from api.clients.visit import Visit
from api.edge.api_key import ApiKey, Role
from api.edge.failed_keys import FailedKeys
from api.edge.hosts import HostRule
from api.edge.keys import KEY_HEADERS, Denial, KeyRing
from api.error_answer import ErrorAnswer
from api.observe.request_record import RequestRecord

REQUEST_ID_KEY = "powertrain_request_id"
API_KEY_KEY = "powertrain_api_key"
VISIT_KEY = "powertrain_visit"
RECORD_KEY = "powertrain_record"
IGNORED_KEY = "powertrain_ignored_fields"
REFUSAL_KEY = "powertrain_refusal"

_PROBES = ("/v1/health/live", "/v1/health/ready", "/health", "/ping")
OPEN_PATHS = frozenset({*_PROBES, *(f"{path}/" for path in _PROBES)})
ADMIN_PATH = "/v1/admin"
"""What lies below it is opened by keys of its own."""
_METRICS_PATHS = frozenset({"/v1/metrics", "/metrics"})
_SAFE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_MAX_LOGGED_CHARS = 256
_LOG = logging.getLogger("powertrain.requests")


class Edge:
    """ASGI wrapper around the application. ``note_refusal`` counts the status of each request denied here.

    ``error_body`` makes the JSON of a refusal in the shape that the clients of a path expect. ``keyless`` are paths
    that GET and HEAD read without a key, under the names that the server answers to.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        admin_keys: KeyRing,
        hosts: HostRule,
        note_refusal: Callable[[int], None],
        *,
        error_body: Callable[[str, ErrorAnswer], bytes],
        keyless: Collection[str] = (),
    ) -> None:
        self._app = app
        self._error_body = error_body
        self._keys = keys
        self._admin_keys = admin_keys
        self._hosts = hosts
        self._note_refusal = note_refusal
        self._keyless = frozenset(keyless)
        self._failed_keys = FailedKeys()

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
        audit: dict[str, object] = {"client": _client(scope)}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(b"x-request-id", request_id.encode()), *_limit_headers(state.get(VISIT_KEY))]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            denied = self._denial(scope, audit)
            if denied is not None:
                self._note_refusal(denied.status)
                await _refuse(denied, self._error_body(scope["path"], denied), send_with_id)
            elif scope["method"] == HttpMethod.HEAD:  # the server below leaves the body out
                await self._app({**scope, "method": HttpMethod.GET}, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        finally:
            if (visit := state.get(VISIT_KEY)) is not None:
                visit.leave()
            _log(scope, audit, status, started_ns)

    def _denial(self, scope: HTTPScope, audit: dict[str, object]) -> ErrorAnswer | None:
        """Why a request goes no further, or None. Notes in ``audit`` whose key it carries, or what is wrong."""
        if scope["path"] in OPEN_PATHS:
            return None
        if (refusal := self._hosts.refusal(scope)) is not None:
            audit["denied"] = "host"
            return refusal
        keys = self._admin_keys if _is_below(scope["path"], ADMIN_PATH) and self._admin_keys else self._keys
        if not keys or _is_preflight(scope) or self._is_keyless(scope):
            return None
        holder = keys.holder(scope)
        if not isinstance(holder, Denial):
            audit["key"] = holder.name
            scope["state"][API_KEY_KEY] = holder
            return _beyond_role(scope, holder, audit)
        audit["denied"] = holder.value
        wait_s = self._failed_keys.note(_client(scope))
        if wait_s:
            message = f"Too many requests without a valid API key from this address: wait {wait_s} s."
            return ErrorAnswer(429, message, headers={"retry-after": str(wait_s), "x-should-retry": "false"})
        message = "A valid API key is required: send 'Authorization: Bearer <key>' or 'X-Api-Key: <key>'."
        if keys is self._admin_keys:
            message = message.replace("API key", "admin key")
        return ErrorAnswer(401, message, headers={"www-authenticate": "Bearer"})

    def _is_keyless(self, scope: HTTPScope) -> bool:
        return scope["path"] in self._keyless and scope["method"] in {HttpMethod.GET, HttpMethod.HEAD}


def _is_below(path: str, root: str) -> bool:
    """True for a path and all below it, however many slashes stand between its parts."""
    parts, wanted = [part for part in path.split("/") if part], root.strip("/").split("/")
    return parts[: len(wanted)] == wanted


def _beyond_role(scope: HTTPScope, key: ApiKey, audit: dict[str, object]) -> ErrorAnswer | None:
    """Why a key for metrics alone does not open a path; what it opens is named, so no other spelling gets around it."""
    if key.role is not Role.METRICS or scope["path"].removesuffix("/") in _METRICS_PATHS:
        return None
    audit["denied"] = "role"
    return ErrorAnswer(403, "This API key opens metrics and health only.")


def _limit_headers(visit: Visit | None) -> list[tuple[bytes, bytes]]:
    return [] if visit is None else [(name.encode(), value.encode()) for name, value in visit.headers().items()]


def _client(scope: HTTPScope) -> str:
    client = scope["client"]
    return client[0] if client else "-"


def _is_preflight(scope: HTTPScope) -> bool:
    if scope["method"] != HttpMethod.OPTIONS:
        return False
    names = {name for name, _ in scope["headers"]}
    has_key = not names.isdisjoint(KEY_HEADERS)
    return b"origin" in names and b"access-control-request-method" in names and not has_key


def _request_id(scope: HTTPScope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SAFE_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return secrets.token_hex(16)


async def _refuse(answer: ErrorAnswer, body: bytes, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _log(scope: HTTPScope, audit: dict[str, object], status: int, started_ns: int) -> None:
    level = logging.DEBUG if scope["path"] in OPEN_PATHS | _METRICS_PATHS else logging.INFO
    if "denied" in audit:
        level = logging.WARNING
    if not _LOG.isEnabledFor(level):
        return
    state: dict[str, Any] = scope["state"]
    fields: dict[str, object] = {
        "id": state[REQUEST_ID_KEY],
        **audit,
        "method": scope["method"],
        "path": cut(scope["path"]),
        "status": status,
        "total_ms": round((time.perf_counter_ns() - started_ns) / 1e6, 2),
    }
    record: RequestRecord | None = state.get(RECORD_KEY)
    if record is not None:
        fields |= {
            "model": record.model,
            "prompt_tokens": record.num_prompt_tokens,
            "completion_tokens": record.num_generated,
            "cached_tokens": record.cached_tokens,
            "prepare_ms": _ms(record.prepare_s),
            "queue_ms": _ms(record.queue_s),
            "ttft_ms": _ms(record.ttft_s),
            "finish": ",".join(record.finish_reasons[index] for index in sorted(record.finish_reasons)),
        }
    fields |= state.get(REFUSAL_KEY, {})
    if ignored := state.get(IGNORED_KEY):
        fields["ignored_fields"] = cut(",".join(ignored))
    _LOG.log(level, "request", extra={"fields": fields})


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 2)


def cut(text: str) -> str:
    """A client's text, short enough for a log line."""
    return text if len(text) <= _MAX_LOGGED_CHARS else text[:_MAX_LOGGED_CHARS] + "..."
