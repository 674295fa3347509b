"""Runs a test beside an engine on a thread of its own, as a server does, over a scripted session."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from runtime.engine.async_engine import AsyncEngine
from runtime.engine.config import EngineConfig
from tests.fakes import Call, ScriptedSession, adding

WARM_UP_CALLS = 3
"""Calls of a session before the first request's."""


class Gate:
    """Holds the engine thread inside a call until opened; the first ``free`` calls pass."""

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _call: Call) -> None:
        if self.free > 0:
            self.free -= 1
            return
        self.reached.set()
        self.opened.wait(timeout=60)


def with_engine(
    test: Callable[[AsyncEngine, ScriptedSession], Coroutine[Any, Any, None]],
    session: ScriptedSession | None = None,
    **config: Any,
) -> None:
    """Run a test on an event loop with an engine that is ready, and close it; the session too must be closed then."""
    chosen = session or ScriptedSession(adding)

    async def body() -> None:
        engine = AsyncEngine(lambda: chosen, EngineConfig(**config))
        engine.start()
        try:
            await engine.wait_ready()
            await test(engine, chosen)
        finally:
            await engine.close()

    asyncio.run(body())
    assert chosen.closed
