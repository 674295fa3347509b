"""The race between work for a client and the client's leaving. Knows no request and no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import HTTPReceiveMessage, Receive

from api.errors import ClientGoneError

Result = TypeVar("Result")


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``, which is cancelled with ClientGoneError when the client closes the connection."""
    worker = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise ClientGoneError
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    message: HTTPReceiveMessage | None = None
    while message is None or message["type"] != "http.disconnect":
        message = await receive()  # type: ignore[assignment]
