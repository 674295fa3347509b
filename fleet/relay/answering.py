"""A replica's end of the relay: a forwarded request becomes a call of the ASGI application, its messages pieces.

Messages that come while nobody reads travel together: a piece costs its carrier far more than a message. When whoever
reads the pieces stops, the application is told that its client left. Knows no carrier, no limits and no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from api.clients.client import Client
from api.clients.visit import Visit
from api.edge.access import API_KEY_KEY, VISIT_KEY
from api.edge.api_key import ApiKey, Role
from litestar.types import ASGIApp

from fleet.relay.wire import Forwarded, Piece, Reserve


class _RelayedVisit(Visit):
    """The visit of a client whose budgets lie with the front: what is asked of them here is told there.

    The front counts and refuses. What it refuses it stops, so that the work on it lasts one trip at most.
    """

    def __init__(self, client_name: str, mailbox: _Mailbox) -> None:
        super().__init__(Client(client_name, lambda: 0))
        self._mailbox = mailbox

    def enter(self) -> None:
        """Nothing: the front has let the request in."""

    def reserve(self, num_prompt_tokens: int, max_generated: int) -> None:
        """Tell the front."""
        self._mailbox.put_reserve(Reserve(num_prompt_tokens=num_prompt_tokens, max_generated=max_generated))

    def charge(self, usage: Callable[[], tuple[int, int]], *, is_whole: bool) -> None:
        """Have each piece tell what was used."""
        self._mailbox.usage, self._mailbox.is_whole = usage, is_whole

    def take_back(self) -> None:
        """Nothing: the front sees the status."""

    def leave(self) -> None:
        """Nothing: the front sees the end."""

    def headers(self) -> dict[str, str]:
        """None: the front adds them."""
        return {}


@dataclass(slots=True)
class _Mailbox:
    """What the application has said and nobody has read yet."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    reserve: Reserve | None = None
    usage: Callable[[], tuple[int, int]] | None = None
    is_whole: bool = False
    filled: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, message: Mapping[str, Any]) -> None:
        """ASGI's ``send``."""
        self.messages.append(dict(message))
        self.filled.set()

    def put_reserve(self, reserve: Reserve) -> None:
        self.reserve = reserve
        self.filled.set()

    def take(self) -> Piece:
        """Everything so far, as one piece."""
        piece = Piece(
            messages=tuple(self.messages),
            reserve=self.reserve,
            used=None if self.usage is None else self.usage(),
            is_whole=self.is_whole,
        )
        self.messages, self.reserve = [], None
        self.filled.clear()
        return piece


async def answer_pieces(app: ASGIApp, request: Forwarded) -> AsyncGenerator[Piece, None]:
    """The application's answer to ``request``. Closing the generator ends the application's work on it.

    Raises what the application raises.
    """
    mailbox, gone = _Mailbox(), asyncio.Event()
    scope = _scope(request, mailbox)
    work = asyncio.ensure_future(app(scope, _receiver(request.body, gone), mailbox.send))  # type: ignore[arg-type]
    work.add_done_callback(lambda _: mailbox.filled.set())
    try:
        while not work.done() or mailbox.messages:
            await mailbox.filled.wait()
            piece = mailbox.take()
            if piece.messages or piece.reserve is not None:
                yield piece
        work.result()
    finally:
        gone.set()
        if not work.done():
            work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _receiver(body: bytes, gone: asyncio.Event) -> Callable[[], Any]:
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


def _scope(request: Forwarded, mailbox: _Mailbox) -> MutableMapping[str, Any]:
    state: dict[str, Any] = {}
    if request.key_name is not None:
        state[API_KEY_KEY] = ApiKey(request.key_name, b"", Role(request.key_role or Role.CLIENT))
        state[VISIT_KEY] = _RelayedVisit(request.key_name, mailbox)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.http_version,
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": list(request.headers),
        "client": request.client,
        "server": None,
        "state": state,
        "extensions": {},
    }
