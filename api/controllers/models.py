"""``/v1/models``: what is served, as OpenAI clients and Kubernetes operators list it."""

from __future__ import annotations

import hashlib

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.errors import NotFoundError
from api.response.json_answer import JsonAnswer


class ModelPermission(msgspec.Struct, frozen=True, kw_only=True):
    """What may be done with a model; the same for every model here."""

    id: str
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One served name. Only the base name has ``root == id``: operators look for exactly that entry.

    ``parent`` is the base name for an adapter, and null for the model's own names.
    """

    id: str
    object: str = "model"
    created: int
    owned_by: str = "system"
    root: str
    parent: str | None = None
    max_model_len: int
    permission: list[ModelPermission]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All served names."""

    object: str = "list"
    data: list[ModelCard]


class ModelsController(Controller):
    """The served names."""

    path = "/v1/models"

    @get()
    async def list_models(self, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Every served name, each model's base name first and its adapters last, loaded or not."""
        return JsonAnswer(ModelList(data=[_card(name, one) for one in models.services for name in one.names]))

    @get("/{model_id:path}")
    async def retrieve(self, model_id: FromPath[str], models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """One served name; names may hold slashes."""
        name = str(model_id).strip("/")
        service = next((service for service in models.services if name in service.names), None)
        if service is None:
            raise NotFoundError(f"The model `{name[:256]}` does not exist.", "model")
        return JsonAnswer(_card(name, service))


def _card(name: str, service: Service) -> ModelCard:
    model, loaded = service.model, service.adapters.loaded.get(name)
    return model_card(
        name,
        root=model.base_name,
        parent=None if loaded is None else model.base_name,
        created_unix=model.created_unix if loaded is None else loaded.created_unix,
        max_model_len=model.max_model_len,
    )


def model_card(name: str, *, root: str, created_unix: int, max_model_len: int, parent: str | None = None) -> ModelCard:
    """The card of one served name of the model whose base name is ``root``; an adapter's ``parent`` is that as well."""
    permission_id = "modelperm-" + hashlib.sha256(name.encode()).hexdigest()[:32]
    return ModelCard(
        id=name,
        created=created_unix,
        root=root,
        parent=parent,
        max_model_len=max_model_len,
        permission=[ModelPermission(id=permission_id, created=created_unix)],
    )
