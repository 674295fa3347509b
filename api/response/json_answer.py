"""A JSON (or text) answer as an ASGI application. Used by every handler that sends no stream."""

from __future__ import annotations

from collections.abc import Mapping

from litestar.types import Receive, Scope, Send

from api.response.sse import encode_json


class JsonAnswer:
    """One whole answer. ``content`` is encoded as JSON unless it is bytes already."""

    def __init__(
        self,
        content: object,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        self._body = content if isinstance(content, bytes) else encode_json(content)
        self._status = status
        self._headers = {"content-type": content_type, "content-length": str(len(self._body)), **(headers or {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers.items()]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})
