"""All models of one server, by name: who uses them, who waits for one. A server of one model has a registry of one.

Everything happens on the event loop. Loading itself is ``model_loads``'. Knows no route and no field of a request.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runtime.errors import EngineUnavailable, KVBudgetError, Overloaded

from api.controllers.known_model import KnownModel
from api.controllers.model_loads import ModelLoads
from api.controllers.service import Service
from api.errors import ConflictError, NoRoomError, NotFoundError
from api.models.state import ModelState, can_serve, is_alive
from api.observe.model_metrics import ModelReading

_LOG = logging.getLogger("powertrain.server")
_MAX_SHOWN_CHARS = 256


@dataclass(slots=True)
class Lease:
    """One request's use of a model, which stays loaded for it. ``release`` it when the request ends."""

    registry: ModelRegistry
    model: KnownModel
    is_over: bool = False

    def release(self) -> None:
        """The request has ended. Idempotent."""
        if not self.is_over:
            self.is_over = True
            self.registry.end_use(self.model)


class ModelRegistry:
    """The models of one server. ``budgets`` are the bytes that all of them may take of each device."""

    def __init__(self, models: Sequence[KnownModel], budgets: Mapping[str, int]) -> None:
        """The first of ``models`` is the one that requests mean which name none. One at least can be served."""
        self.models = tuple(models)
        self.budgets = dict(budgets)
        self._by_name = {name: model for model in self.models for name in model.names}
        self._uses = itertools.count(1)
        self._loads = ModelLoads(self.models, self.budgets)

    @classmethod
    def alone(cls, service: Service) -> ModelRegistry:
        """A server of one model, which is loaded at the start and stays."""
        return cls([KnownModel(service)], {"cpu": 0})

    @property
    def is_draining(self) -> bool:
        """True once the server shuts down."""
        return self._loads.is_draining

    @property
    def is_lone(self) -> bool:
        """True for a server of one model."""
        return len(self.models) == 1

    @property
    def default(self) -> KnownModel:
        """The model of requests that name none."""
        return self.models[0]

    @property
    def front(self) -> Service:
        """The service whose server-wide parts speak for the server: the first model's that has one."""
        return self._first.service

    @property
    def services(self) -> list[Service]:
        """Those of the models that requests may name, loaded or not."""
        return [model.service for model in self.models if model.has_service]

    def readings(self) -> list[ModelReading]:
        """Each model, as the metrics show it."""
        return [model.reading() for model in self.models]

    @property
    def num_live(self) -> int:
        """Requests that have not ended."""
        return sum(model.service.engine.num_live for model in self.models if model.has_service)

    @property
    def is_loading(self) -> bool:
        """True while an engine's thread loads a model, also after ``close``, which does not wait for that."""
        engines = [model.service.engine for model in self.models if model.has_service]
        return any(engine.is_loading and not engine.has_ended for engine in engines)

    @property
    def failure(self) -> str | None:
        """Why the server cannot go on, in one line for the log: each model's failure; None unless all have failed."""
        if self.is_lone:
            return self.front.engine.failure
        if is_alive([model.state for model in self.models]):
            return None
        return "; ".join(f"{model.name}: {model.reason}" for model in self.models)

    def named(self, name: object) -> KnownModel:
        """The model of a request's ``model``; the first for what is no name. Raises NotFoundError with the names."""
        if not isinstance(name, str) or not name:
            return self.default
        found = self._by_name.get(name) or self._with_adapter(name)
        if found is None:
            shown = name if len(name) <= _MAX_SHOWN_CHARS else name[:_MAX_SHOWN_CHARS] + "..."
            known = "" if self.is_lone else f" This server has {', '.join(self._by_name)}."
            raise NotFoundError(f"The model `{shown}` does not exist.{known}", "model")
        return found

    def _with_adapter(self, name: str) -> KnownModel | None:
        adapted = (model for model in self.models if model.has_service and name in model.service.adapters.loaded)
        return next(adapted, None)

    def require_ready(self) -> None:
        """Raise EngineUnavailable unless requests are to be sent here."""
        if self.is_lone:
            self.front.require_ready()
        elif self.is_draining or not self._can_serve():
            raise EngineUnavailable("draining" if self.is_draining else "no model is ready")

    def _can_serve(self) -> bool:
        states = [model.state for model in self.models]
        return can_serve(states, has_served=any(model.num_loads for model in self.models), on_demand=self._on_demand)

    def require_alive(self) -> None:
        """Raise EngineUnavailable when every engine died or hangs: only a restart helps then."""
        if self.is_lone:
            self.front.require_alive()
        elif not is_alive([model.state for model in self.models]):
            raise EngineUnavailable("no model can serve")

    def use(self, model: KnownModel) -> Lease:
        """Begin a request's use of a model, which keeps it loaded until the lease is released."""
        model.num_users += 1
        return Lease(self, model)

    def end_use(self, model: KnownModel) -> None:
        """End it: whoever waits for room may find some."""
        model.num_users -= 1
        model.last_used = next(self._uses)
        self._loads.notify()

    async def loaded(self, model: KnownModel) -> Service:
        """The service of a model in use, once it is loaded; loads it, and has idle ones make room.

        Waits as long as its queue may. Raises EngineUnavailable after that, ModelFailedError when it cannot be loaded,
        Overloaded when too many wait for it.
        """
        settings, held_up = model.service.settings, ""
        if model.num_waiting and model.num_waiting >= settings.max_queue:
            raise Overloaded(f"{model.num_waiting} requests wait for the model {model.name} to be loaded")
        model.num_waiting += 1
        try:
            async with asyncio.timeout(settings.max_queue_time_s or None):
                while not model.is_ready:
                    held_up = self._want(model)
                    await self._loads.change()
        except TimeoutError as error:
            raise EngineUnavailable(f"The model `{model.name}` is not loaded yet{held_up}; try again.") from error
        finally:
            model.num_waiting -= 1
        return model.service

    def _want(self, model: KnownModel) -> str:
        """Begin loading a model that a request waits for, if that can begin now; else why not."""
        if self.is_draining:
            raise EngineUnavailable("the server is shutting down")
        if model.state is ModelState.FAILED:
            raise model.refusal()
        if model.stage is not ModelState.UNLOADED or self._loads.is_busy:
            return ""
        if not self._on_demand:
            raise EngineUnavailable(f"The model `{model.name}` is unloaded until its operator loads it.")
        try:
            self._loads.begin_load(model)
        except NoRoomError:
            return ": models that are serving hold the memory"
        except KVBudgetError as error:
            self._loads.fail(model, str(error))
            raise model.refusal() from error
        return ""

    @property
    def _on_demand(self) -> bool:
        return self.front.settings.load_models != "admin"

    @property
    def _first(self) -> KnownModel:
        return next(model for model in self.models if model.has_service)

    def begin(self) -> None:
        """Start loading the first model that can be served. Call on the running loop, once."""
        self._first.start()

    async def start(self) -> None:
        """Wait for the first model, and load the others one by one as far as they fit, if they are not left to requests
        or to the operator. Raises EngineUnavailable when none could be loaded."""
        started = time.perf_counter()
        if self.is_lone:
            await self._first.bring_up()
            _LOG.info("ready after %.1f s", time.perf_counter() - started)
            return
        self._loads.begin_wait(self._first)
        await self._loads.rest()
        for model in self.models if self.front.settings.load_models == "start" else ():
            if model.stage is ModelState.UNLOADED and not self.is_draining:
                self._loads.begin_beside(model)
            await self._loads.rest()
        if not is_alive([model.state for model in self.models]):
            raise EngineUnavailable(self.failure or "no model could be loaded")

    async def load_now(self, model: KnownModel) -> None:
        """Load a model for its operator, a failed one too. Raises ConflictError with the arithmetic when models that
        are serving hold the memory, and with the reason when it fails."""
        await self._loads.rest()
        if model.has_died:
            self._loads.begin_unload(model, 0.0)
            await self._loads.rest()
        if model.is_ready:
            return
        if model.is_stuck or not model.has_service:
            raise ConflictError(f"The model `{model.name}` cannot be loaded before a restart: {model.reason}")
        try:
            self._loads.begin_load(model)
        except (NoRoomError, KVBudgetError) as error:
            raise ConflictError(str(error)) from error
        await self._loads.rest()
        if not model.is_ready:
            raise ConflictError(f"The model `{model.name}` could not be loaded: {model.reason or model.state.value}")

    async def unload(self, model: KnownModel) -> None:
        """Let a model's running answers end, within the time that a shutdown gives them, and free its memory. What is
        not loaded stays so."""
        await self._loads.rest()
        if model.stage is ModelState.READY:
            self._loads.begin_unload(model, model.service.settings.drain_timeout_s)
            await self._loads.rest()
            _LOG.info("the model %s is %s", model.name, model.state.value)

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing more; return when every request has ended, aborting what is left after ``timeout_s``."""
        self._loads.is_draining = True
        self._loads.notify()
        engines = [model.service.engine for model in self.models if model.has_service]
        await asyncio.gather(*(engine.drain(timeout_s) for engine in engines))

    async def close(self) -> None:
        """End every engine, whatever it does, and what works on texts."""
        self._loads.stop()
        served = [model.service for model in self.models if model.has_service]
        await asyncio.gather(*(service.engine.close() for service in served))
        for service in served:
            await asyncio.to_thread(service.model.close)
