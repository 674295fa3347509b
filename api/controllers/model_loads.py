"""Loading and unloading the models of one server, one at a time, so that what is counted as free stays free.

Everything happens on the event loop. Who makes room for whom is ``api.models.room``'s rule, how one model comes up its
own. Knows no request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from runtime.errors import EngineUnavailable, KVBudgetError

from api.controllers.known_model import KnownModel
from api.errors import NoRoomError
from api.models.room import leavers
from api.models.state import ModelState

_LOG = logging.getLogger("powertrain.models")


class ModelLoads:
    """What is being loaded or unloaded of ``models``. ``budgets`` are the bytes that all may take, by device."""

    def __init__(self, models: Sequence[KnownModel], budgets: Mapping[str, int]) -> None:
        self._models = tuple(models)
        self._budgets = budgets
        self._changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self.is_draining = False

    @property
    def is_busy(self) -> bool:
        """True while a model is being loaded or unloaded: the next has to wait."""
        return self._work is not None

    def notify(self) -> None:
        """Wake whoever waits for a change: a model's state, or the end of a request, has changed."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def change(self) -> None:
        """Return after the next change."""
        await self._changed.wait()

    async def rest(self) -> None:
        """Return when nothing is being loaded or unloaded."""
        while self.is_busy:
            await self.change()

    def begin_load(self, model: KnownModel) -> None:
        """Begin to load a model, for which idle ones make room. Only at rest.

        Raises NoRoomError when models that are serving hold the memory, KVBudgetError when all of it would not be
        enough, EngineUnavailable once the server ends, whose engines nobody would end then; nothing has changed then.
        """
        if self.is_draining:
            raise EngineUnavailable("the server is shutting down")
        leaving = self._leavers(model)
        for other in leaving:
            other.num_evictions += 1
            other.stage = ModelState.UNLOADING  # from here on nobody begins to use it
            _LOG.info("the model %s makes room for %s", other.name, model.name)
        model.stage = ModelState.LOADING
        self._begin(self._swap(model, leaving))

    def begin_beside(self, model: KnownModel) -> None:
        """The same if nobody has to make room; else the model waits for a request, with the reason in the log."""
        try:
            if self._leavers(model):
                raise NoRoomError(f"it needs {model.need.explain()}, which is not free")
            self.begin_load(model)
        except NoRoomError as error:
            _LOG.info("the model %s waits for a request: %s", model.name, error)
        except KVBudgetError as error:
            self.fail(model, str(error))

    def begin_unload(self, model: KnownModel, timeout_s: float) -> None:
        """Begin to unload a model; its running answers have ``timeout_s`` to end. Only at rest."""
        model.stage = ModelState.UNLOADING
        self._begin(model.bring_down(timeout_s))

    def begin_wait(self, model: KnownModel) -> None:
        """Begin to wait for a model whose engine has been started."""
        self._begin(self._came_up(model))

    def fail(self, model: KnownModel, reason: str) -> None:
        """Note that a model cannot be loaded; the others go on."""
        model.stage, model.failure = ModelState.FAILED, reason
        model.num_failures += 1
        _LOG.error("the model %s could not be loaded: %s", model.name, reason)
        self.notify()

    def stop(self) -> None:
        """Give up what is being done: the server ends."""
        self.is_draining = True
        if self._work is not None:
            self._work.cancel()

    def _leavers(self, model: KnownModel) -> list[KnownModel]:
        holders = [other.as_holder() for other in self._models if other.holds_memory and other is not model]
        leaving = leavers(model.name, model.need, holders, self._budgets)
        return [other for name in leaving for other in self._models if other.name == name]

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            finally:
                self._work = None
                self.notify()

        self._work = asyncio.get_running_loop().create_task(run())

    async def _swap(self, model: KnownModel, leaving: Sequence[KnownModel]) -> None:
        for other in leaving:
            await other.bring_down(0.0)
        if any(other.is_stuck for other in leaving):
            model.stage = ModelState.UNLOADED  # whoever wants it is told that there is no room
            return
        model.start()
        await self._came_up(model)

    async def _came_up(self, model: KnownModel) -> None:
        """Wait for a model whose engine was started; one that fails leaves the others as they are."""
        started = time.perf_counter()
        try:
            await model.bring_up()
        except EngineUnavailable as error:
            if not self.is_draining:
                _LOG.error("the model %s could not be loaded: %s", model.name, error)
                await model.service.engine.close()
            return
        _LOG.info("the model %s is ready after %.1f s", model.name, time.perf_counter() - started)
