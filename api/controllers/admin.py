"""``/v1/admin/models``: what each model of the server does, and loading and unloading them. Behind keys of its own.

Knows no key: the edge asks for it, and what it lets through is looked at again here.
"""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, get, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from api.controllers.known_model import KnownModel
from api.controllers.registry import ModelRegistry
from api.edge.access import API_KEY_KEY
from api.edge.api_key import ApiKey
from api.errors import ConflictError, ForbiddenError, NotFoundError
from api.response.json_answer import JsonAnswer


class ModelMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What a model takes while it is loaded, in bytes. ``device`` is ``cpu`` or a GPU's UUID."""

    device: str
    fixed_bytes: int
    kv_cache_bytes: int


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One model: where it stands, its limits, what it does. ``reason`` says why it has failed.

    ``requests`` have named it and not ended; ``waiting`` of them wait for it to be loaded. What is counted is counted
    from the server's start. ``num_slots`` is 0 while it is not loaded, ``max_model_len`` None where its package could
    not be read.
    """

    id: str
    object: str = "model_status"
    aliases: list[str]
    state: str
    reason: str | None
    memory: ModelMemory
    max_model_len: int | None
    max_queue: int | None
    num_slots: int
    requests: int
    waiting: int
    loads: int
    failures: int
    evictions: int


class MemoryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of a device that all models share, and what those take of it that are loaded."""

    device: str
    budget_bytes: int
    used_bytes: int


class ModelStatuses(msgspec.Struct, frozen=True, kw_only=True):
    """All models, the one that requests mean which name none first."""

    object: str = "list"
    memory: list[MemoryBudget]
    data: list[ModelStatus]


def operators_only(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Raise ForbiddenError unless the request came with an admin key."""
    key: ApiKey | None = connection.scope["state"].get(API_KEY_KEY)
    if key is None or not key.operates:
        raise ForbiddenError("Only an admin key opens this path.")


class AdminController(Controller):
    """Loading and unloading."""

    path = "/v1/admin/models"
    guards = (operators_only,)

    @get()
    async def statuses(self, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Every model and the memory that they share."""
        holders = [model for model in models.models if model.holds_memory]
        memory = [
            MemoryBudget(
                device=device,
                budget_bytes=budget,
                used_bytes=sum(model.need.total_bytes for model in holders if model.need.device == device),
            )
            for device, budget in models.budgets.items()
        ]
        return JsonAnswer(ModelStatuses(memory=memory, data=[_status(model) for model in models.models]))

    @post("/{order:path}", status_code=200)
    async def change(self, order: FromPath[str], models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """``NAME/load`` or ``NAME/unload``; names may hold slashes. Returns when it is done."""
        name, _, verb = str(order).strip("/").rpartition("/")
        if verb not in {"load", "unload"}:
            raise NotFoundError("The path ends in /load or /unload, behind a model's name.")
        model = models.named(name)
        if not name:
            raise NotFoundError("The path has a model's name before /load or /unload.")
        if models.is_lone:
            raise ConflictError("The server has one model, which it keeps; serve several to load and unload them.")
        await (models.load_now(model) if verb == "load" else models.unload(model))
        return JsonAnswer(_status(model))


def _status(model: KnownModel) -> ModelStatus:
    service = model.service if model.has_service else None
    need = model.need
    return ModelStatus(
        id=model.name,
        aliases=list(model.names[1:]),
        state=model.state.value,
        reason=model.reason,
        memory=ModelMemory(device=need.device, fixed_bytes=need.fixed_bytes, kv_cache_bytes=need.cache_bytes),
        max_model_len=None if service is None else service.model.max_model_len,
        max_queue=None if service is None else service.settings.max_queue,
        num_slots=0 if service is None else service.engine.stats().num_slots,
        requests=model.num_users,
        waiting=model.num_waiting,
        loads=model.num_loads,
        failures=model.num_failures,
        evictions=model.num_evictions,
    )
