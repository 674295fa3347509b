"""One answer on its way from a replica's pieces to the client, and what becomes of its client's limits meanwhile.

A stream whose replica is lost ends with an error event, never in silence. Knows no carrier and no route's meaning.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from api.clients.visit import Visit
from api.error_answer import answer_from
from litestar.types import Send
from runtime.errors import EngineUnavailable

from fleet.errors import CutOffError, ReplicaLostError
from fleet.relay.stream_end import broken_stream
from fleet.relay.wire import Piece

_LOG = logging.getLogger("powertrain.fleet")
_REQUEST_ID = b"x-request-id"
_OVERLOADED = 429


class PassingOn:
    """Passes the pieces of one answer on to ``send``. ``visit`` is None where no key is asked for."""

    def __init__(self, send: Send, visit: Visit | None, path: str) -> None:
        self._send = send
        self._visit = visit
        self._path = path
        self._used = (0, 0)
        self._status = 0
        self._is_stream = False

    async def run(self, pieces: AsyncIterator[Piece]) -> None:
        """Pass everything on. Raises ClientLimitError or RequestError when the client has not the tokens for it,
        ReplicaLostError when the replica is lost before anything was sent, and CutOffError when it is lost later and
        the answer is no stream."""
        try:
            async for piece in pieces:
                self._count(piece)
                for message in piece.messages:
                    await self._pass(message)
        except ReplicaLostError as error:
            if not self._status:
                raise
            _LOG.error("an answer's replica is gone: %s", error)
            if not self._is_stream:
                raise CutOffError from error
            failure = answer_from(EngineUnavailable("the replica that worked on this request is gone"))
            await self._send(
                {"type": "http.response.body", "body": broken_stream(self._path, failure), "more_body": False}
            )

    def _count(self, piece: Piece) -> None:
        if self._visit is None:
            return
        if piece.reserve is not None:
            self._visit.reserve(piece.reserve.num_prompt_tokens, piece.reserve.max_generated)
        if piece.used is not None:
            self._used = piece.used
            self._visit.charge(lambda: self._used, is_whole=piece.is_whole)

    async def _pass(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [item for item in message["headers"] if item[0] != _REQUEST_ID]
            message = {**message, "headers": headers}
            self._is_stream = (b"content-type", b"text/event-stream") in [
                (name, value.partition(b";")[0].strip()) for name, value in headers
            ]
            if self._visit is not None and (self._status >= 500 or self._status == _OVERLOADED):
                self._visit.take_back()  # limits are counted here, so a 429 of the replica's is its own crowd
        await self._send(message)  # type: ignore[arg-type]
