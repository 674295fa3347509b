"""A real server of several scripted models over a real socket. Each does what its user's message says.

Every load of a model makes a session of its own, so that a test sees what was loaded and closed, and when.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from api.adapters import Adapters
from api.clients.client import Clients
from api.controllers.known_model import KnownModel
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.models.room import MemoryNeed
from api.observe.metrics import ServerMetrics
from api.observe.model_metrics import watch_models
from api.process.launch import engine_config
from api.request.reception import new_reception
from api.server_settings import Settings
from api.settings_rules import check_settings
from runtime.engine.async_engine import AsyncEngine
from runtime.engine.step_report import EngineStats
from tests.api.programs import VOCAB_SIZE, model_script
from tests.api.scripted_server import MAX_MODEL_LEN, NUM_SLOTS, Gate, RunningServer, listening, scripted_model
from tests.fakes import ScriptedSession

ADMIN = {"authorization": "Bearer the-admins-key"}


@dataclasses.dataclass
class ScriptedModel:
    """One of the models. ``gate`` holds its engine, and so its load; ``load_error`` makes its next loads fail."""

    name: str
    session_type: type[ScriptedSession] = ScriptedSession
    gate: Gate = dataclasses.field(default_factory=Gate)
    sessions: list[ScriptedSession] = dataclasses.field(default_factory=list)
    load_error: str | None = None

    def open(self) -> ScriptedSession:
        """A session, on the engine's thread."""
        if self.load_error is not None:
            raise RuntimeError(self.load_error)
        sizes: dict[str, Any] = {"num_slots": NUM_SLOTS, "max_model_len": MAX_MODEL_LEN, "vocab_size": VOCAB_SIZE}
        self.sessions.append(self.session_type(model_script, before_call=self.gate, **sizes))
        return self.sessions[-1]

    @property
    def is_open(self) -> bool:
        """Whether its newest session holds memory."""
        return bool(self.sessions) and not self.sessions[-1].closed


@dataclasses.dataclass
class ManyServer:
    """A server of several models."""

    running: RunningServer
    registry: ModelRegistry
    models: dict[str, ScriptedModel]

    def ask(self, model: str, text: str = "hi", **fields: Any) -> httpx.Response:
        """A chat request to one of them."""
        return self.running.post({"model": model, "messages": [{"role": "user", "content": text}], **fields})

    def statuses(self) -> dict[str, dict[str, Any]]:
        """What the operator sees, by name."""
        return {one["id"]: one for one in self.admin().json()["data"]}

    def states(self) -> dict[str, str]:
        """Where each model stands, as the operator sees it."""
        return {name: one["state"] for name, one in self.statuses().items()}

    def admin(self, name: str | None = None, verb: str = "load", headers: Mapping[str, str] = ADMIN) -> httpx.Response:
        """GET of all models, or an order about one."""
        path = "/v1/admin/models"
        if name is None:
            return self.running.get(path, headers=dict(headers))
        return self.running.http.post(f"{path}/{name}/{verb}", headers=dict(headers))


@contextlib.contextmanager
def running_models(
    sizes: Mapping[str, int],
    *,
    budget: int,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    load_errors: Mapping[str, str] | None = None,
    broken: Mapping[str, str] | None = None,
    wait: bool = True,
    clients: Clients | None = None,
    adapters: Mapping[str, Adapters] | None = None,
    session_type: type[ScriptedSession] = ScriptedSession,
    **settings: Any,
) -> Iterator[ManyServer]:
    """Serve models of ``sizes`` bytes until the block ends. ``broken`` are those whose package cannot be served."""
    plain = {"port": 0, "num_slots": NUM_SLOTS, "admin_key": ("the-admins-key",), "more_models": ("b",), "model": "a"}
    chosen = Settings(**{**plain, **settings})
    check_settings(chosen)
    models = {name: ScriptedModel(name, session_type, load_error=(load_errors or {}).get(name)) for name in sizes}
    for model in models.values():
        model.gate.open.set()
    first = next(name for name in sizes if name not in (broken or {}))
    metrics = ServerMetrics(first, EngineStats, vllm_names=False)
    reception, clients = new_reception(chosen, MAX_MODEL_LEN), clients or Clients()

    def known(name: str) -> KnownModel:
        need = MemoryNeed(fixed_bytes=1, cache_bytes=sizes[name] - 1)
        if broken and name in broken:
            return KnownModel(None, names=(name,), need=need, failure=broken[name])
        mine = dataclasses.replace(chosen, served_model_name=(name, f"{name}/alias"), **(own or {}).get(name, {}))

        def new_engine() -> AsyncEngine:
            return AsyncEngine(models[name].open, engine_config(mine))

        def read_stats() -> EngineStats:
            return one.service.engine.stats()

        one = KnownModel(
            Service(
                settings=mine,
                model=scripted_model(mine),
                engine=new_engine(),
                metrics=metrics.beside(name, read_stats),
                reception=reception,
                clients=clients,
                adapters=(adapters or {}).get(name) or Adapters(),
            ),
            need=need,
            new_engine=new_engine,
        )
        return one

    registry = ModelRegistry([known(name) for name in sizes], {"cpu": budget})
    watch_models(metrics.registry, registry.readings, registry.budgets)
    front = models[first]
    with listening(registry.front, ScriptedSession(model_script), front.gate, models=registry) as running:
        server = ManyServer(running, registry, models)
        try:
            if wait:
                running.wait_for(lambda: _is_settled(server))
            yield server
        finally:
            for model in models.values():
                model.gate.open.set()


def _is_settled(server: ManyServer) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return server.running.get("/v1/health/ready").status_code == 200 and "loading" not in server.states().values()
    return False
