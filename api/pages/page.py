"""A page, or a file of one, as an ASGI application: with its type, what it may do, and a tag for browsers' caches."""

from __future__ import annotations

import hashlib

from litestar.enums import ScopeType
from litestar.types import HTTPScope, Receive, Scope, Send

NOTHING_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content security policy of what is no page of its own: should a browser show it as one, nothing in it works."""


class Page:
    """One whole answer. ``policy`` is its content security policy, ``vary`` the header that it was chosen by.

    Browsers keep it and ask each time whether it is still the same: a new version of the server shows at once, and
    the large script of ``/docs`` is sent once.
    """

    def __init__(self, content: bytes, content_type: str, *, policy: str = NOTHING_POLICY, vary: str = "") -> None:
        self.content = content
        self.content_type = content_type
        self.etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {
            "etag": self.etag,
            "cache-control": "no-cache",
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        self._headers = headers | ({"vary": vary} if vary else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the page, or 304 without it to a browser that has it."""
        is_known = scope["type"] == ScopeType.HTTP and self._is_known(scope)
        headers, body = dict(self._headers), b""
        if not is_known:
            headers |= {"content-type": self.content_type, "content-length": str(len(self.content))}
            body = self.content
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 304 if is_known else 200, "headers": raw})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _is_known(self, scope: HTTPScope) -> bool:
        given = b",".join(value for name, value in scope["headers"] if name == b"if-none-match").decode("latin-1")
        tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
        return not tags.isdisjoint({self.etag, "*"})
