"""Adapters that come and go while a server runs: for which of its models, and under a name that nobody else has.

One is loaded at a time, whichever model it is for: what is read is held twice for a moment, and a name that is free
stays free until it is taken. Knows no route.
"""

from __future__ import annotations

import asyncio

from runtime.errors import AdapterError, RequestError, TrustError

from api.adapters import adapter_folder
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.errors import NotFoundError

_MAX_SHOWN_CHARS = 256


class AdapterLoads:
    """The adapters of all models of one server. Use it on one event loop."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models
        self._turn = asyncio.Lock()

    async def load_adapter(self, name: str, path: str, base: str | None = None) -> None:
        """Load the adapter in the folder ``path`` for the model ``base``, which may be left out where one takes any.

        Raises RequestError for what cannot be loaded, NotFoundError for a base that there is not, ModelFailedError for
        one whose package is not fit to serve, and ForbiddenError for one that takes none from any folder.
        """
        service = self._base(base)
        folder = adapter_folder(service.settings.lora_source, path)
        async with self._turn:
            self._check_free(name, service)
            try:
                await asyncio.to_thread(service.adapters.add, name, folder)
            except (AdapterError, TrustError) as error:
                raise RequestError(str(error), "lora_path") from error

    def unload(self, name: str, base: str | None = None) -> None:
        """Take an adapter out, of ``base`` if that is given. Raises NotFoundError for one that is not there."""
        of = self._models.services if base is None else [self._base(base)]
        having = next((service for service in of if name in service.adapters.loaded), of[0])
        having.adapters.unload(name)

    def _base(self, base: str | None) -> Service:
        if base is not None:
            return self._called(base)
        taking = [service for service in self._models.services if service.settings.lora_source is not None]
        if len(taking) > 1:
            names = ", ".join(service.model.base_name for service in taking)
            raise RequestError(f"base_model_name: several models take adapters, say which: {names}", "base_model_name")
        return taking[0] if taking else self._models.front

    def _called(self, base: str) -> Service:
        for model in self._models.models:
            if base in model.names:
                return model.service
        known = ", ".join(model.name for model in self._models.models)
        shown = base[:_MAX_SHOWN_CHARS]
        raise NotFoundError(
            f"base_model_name: there is no model `{shown}` that an adapter can be for; there are {known}",
            "base_model_name",
        )

    def _check_free(self, name: str, service: Service) -> None:
        """Raise RequestError for a name that another model has, or an adapter of one."""
        for model in self._models.models:
            is_other = not model.has_service or model.service is not service
            if is_other and name in model.names:
                raise RequestError(
                    f"lora_name: {name!r} is the name of a model of this server; give the adapter another", "lora_name"
                )
            if is_other and model.has_service and name in model.service.adapters.loaded:
                raise RequestError(
                    f"lora_name: {name!r} is an adapter of `{model.name}`; give this one another name", "lora_name"
                )
