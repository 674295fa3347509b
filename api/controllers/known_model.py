"""One of a server's models: where it stands, its service, who uses it, how it comes up and goes down.

When that happens is ``registry``'s to decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from dataclasses import replace

from runtime.engine.async_engine import AsyncEngine, EngineState
from runtime.errors import EngineUnavailable
from runtime.freed_memory import return_freed_memory

from api.controllers.service import Service
from api.errors import ModelFailedError
from api.models.reason import shown_reason
from api.models.room import Holder, MemoryNeed
from api.models.state import ModelState
from api.observe.model_metrics import ModelReading


class KnownModel:
    """A model that the server knows, loaded or not.

    ``service`` is its text side, which stays, behind an engine, which is another after each load; None when the package
    is not fit to serve at all. ``new_engine`` makes an engine that has not begun; None for a model that is loaded once.
    """

    def __init__(
        self,
        service: Service | None,
        *,
        names: tuple[str, ...] = (),
        need: MemoryNeed | None = None,
        new_engine: Callable[[], AsyncEngine] | None = None,
        failure: str = "",
    ) -> None:
        self._service = service
        self._new_engine = new_engine
        self._names = names
        self.need = need or MemoryNeed()
        self.stage = ModelState.FAILED if service is None else ModelState.UNLOADED
        self.failure = failure
        self.is_stuck = False
        self.num_users = 0  # requests that named it and have not ended
        self.num_waiting = 0  # of them, those that wait for it to be loaded
        self.last_used = 0
        self.num_loads = 0
        self.num_failures = 0 if service is not None else 1
        self.num_evictions = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call it."""
        return self._names if self._service is None else self._service.model.names

    @property
    def name(self) -> str:
        """The name that listings show first."""
        return self.names[0]

    @property
    def service(self) -> Service:
        """What serves it, whether loaded or not. Raises ModelFailedError when its package is not fit to serve."""
        if self._service is None:
            raise self.refusal()
        return self._service

    @property
    def has_service(self) -> bool:
        """Whether its package could be read."""
        return self._service is not None

    @property
    def state(self) -> ModelState:
        """Where it stands; a loaded model whose engine died or hangs has FAILED."""
        if self.stage is ModelState.READY and self.service.engine.state is EngineState.DEAD:
            return ModelState.FAILED
        return self.stage

    @property
    def is_ready(self) -> bool:
        """True when it answers."""
        return self.state is ModelState.READY

    @property
    def reason(self) -> str | None:
        """Why it has FAILED, without paths; else None."""
        if self.state is not ModelState.FAILED:
            return None
        died = self._service.engine.failure if self._service is not None and self.stage is ModelState.READY else None
        return shown_reason(died or self.failure)

    @property
    def holds_memory(self) -> bool:
        """True from the beginning of its load until its memory is given back."""
        return self.is_stuck or self.stage in {ModelState.LOADING, ModelState.READY, ModelState.UNLOADING}

    def reading(self) -> ModelReading:
        """It at the moment of a scrape."""
        return ModelReading(
            name=self.name,
            state=self.state.value,
            device=self.need.device,
            memory_bytes=self.need.total_bytes if self.holds_memory else 0,
            num_waiting=self.num_waiting,
            num_loads=self.num_loads,
            num_failures=self.num_failures,
            num_evictions=self.num_evictions,
        )

    def as_holder(self) -> Holder:
        """Its part of the memory."""
        is_idle = self.stage is ModelState.READY and not self.num_users
        return Holder(name=self.name, need=self.need, last_used=self.last_used, is_idle=is_idle)

    def refusal(self) -> ModelFailedError:
        """What a request for it is told when it has FAILED: the reason is the operator's."""
        return ModelFailedError(f"The model `{self.name}` is not available: it failed. Its operator sees why.")

    @property
    def has_died(self) -> bool:
        """True when its engine died or hangs after it was loaded, and what is left of it has not been ended."""
        return self.stage is ModelState.READY and not self.is_ready

    def start(self) -> None:
        """Start its engine, on the running loop. ``bring_up`` waits for it."""
        if self.failure:  # the last try's engine has ended
            self.renew_engine()
        self.stage = ModelState.LOADING
        self.service.engine.start()

    async def bring_up(self) -> None:
        """Wait until its engine, which has been started, is ready. Raises EngineUnavailable when it cannot be."""
        service = self.service
        try:
            await _apart(service.model.tokenizer.prepare)
            await _apart(service.model.compiler.prepare)  # while the weights load
            await service.engine.wait_ready()
        except EngineUnavailable:
            if service.engine.failure is not None:  # else the server ends while it loads
                self.stage, self.failure = ModelState.FAILED, service.engine.failure
                self.num_failures += 1
            raise
        self.stage, self.failure = ModelState.READY, ""
        self.num_loads += 1
        # What lives now lives on: collecting garbage need not look at it again, which stops everything for 0.1 s.
        gc.freeze()

    async def bring_down(self, timeout_s: float) -> None:
        """End its engine and free its memory; running answers have ``timeout_s`` to end."""
        self.stage = ModelState.UNLOADING
        engine = self.service.engine
        await engine.drain(timeout_s)
        await engine.close()
        self.is_stuck = not engine.has_ended
        if self.is_stuck:
            self.stage, self.failure = ModelState.FAILED, "its engine hangs and keeps its memory; restart the server"
            return
        self.stage = ModelState.UNLOADED
        del engine
        self.renew_engine()
        await _apart(return_freed_memory)

    def renew_engine(self) -> None:
        """Replace an engine that has ended by one that has not begun."""
        if self._new_engine is not None and self._service is not None:
            self._service = replace(self._service, engine=self._new_engine())


async def _apart(work: Callable[[], None]) -> None:
    """Wait for ``work`` on a daemon thread, which cannot hold up the server's end as an executor's does."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the server ended meanwhile, and its loop
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="powertrain-prepare", daemon=True).start()
    await done.wait()
