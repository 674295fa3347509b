"""Cross-origin calls from browsers: closed unless the operator names origins.

Litestar's own CORS layer answers a foreign origin's preflight with a 400 in plain text; here such a preflight is an
ordinary OPTIONS answer without allow headers, and every error keeps the contract's body. Knows no route.
"""

from __future__ import annotations

from collections.abc import Sequence

from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

_LIMITS = (f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset"))
_EXPOSED = ", ".join(("x-request-id", "x-ignored-fields", "retry-after", *_LIMITS)).encode()
_MAX_AGE_S = b"600"


class Cors:
    """ASGI wrapper. ``origins`` may hold ``*``; empty changes nothing."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None or not ({origin, b"*"} & self._origins):
            await self._app(scope, receive, send)
            return
        shared = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        if scope["method"] == HttpMethod.OPTIONS and b"access-control-request-method" in headers:
            await _answer_preflight(send, shared, headers)
            return

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                exposed = (b"access-control-expose-headers", _EXPOSED)
                message["headers"] = [*message.get("headers", ()), *shared, exposed]
            await send(message)

        await self._app(scope, receive, send_with_origin)


async def _answer_preflight(send: Send, shared: list[tuple[bytes, bytes]], asked: dict[bytes, bytes]) -> None:
    headers = [
        *shared,
        (b"access-control-allow-methods", b"GET, HEAD, POST, OPTIONS"),
        (b"access-control-allow-headers", asked.get(b"access-control-request-headers", b"authorization, content-type")),
        (b"access-control-max-age", _MAX_AGE_S),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
