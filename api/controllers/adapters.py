"""``/v1/load_lora_adapter`` and ``/v1/unload_lora_adapter``, as vLLM has them: only where the operator allows it.

Whoever may load names folders of this machine, so a key must be an admin's, and the folder must lie below the one that
the operator named. Knows no adapter's content.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import Meta
from runtime.errors import RequestError

from api.controllers.adapter_loads import AdapterLoads
from api.controllers.intake import AnyRequest, key_of, receive_body
from api.controllers.service import Service
from api.edge.api_key import Role
from api.errors import ForbiddenError
from api.request.field_errors import convert
from api.request.json_body import parse_object
from api.response.json_answer import JsonAnswer

_TEXT = "text/plain; charset=utf-8"
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class LoadRequest(msgspec.Struct, kw_only=True):
    """An adapter to load: its name among the models, and its folder, absolute or below ``lora_source``.

    ``base_model_name``, as vLLM calls it where adapters are listed at the start, is the model that it is for.
    """

    lora_name: Name
    base_model_name: Name | None = None
    lora_path: Annotated[str, Meta(min_length=1, max_length=4096)]
    load_inplace: bool | None = None


class UnloadRequest(msgspec.Struct, kw_only=True):
    """An adapter to take out; ``base_model_name`` may say of which model."""

    lora_name: Name
    base_model_name: Name | None = None


class AdaptersController(Controller):
    """Loading adapters while the server runs."""

    path = "/v1"

    @post("/load_lora_adapter", status_code=200)
    async def load(
        self, request: AnyRequest, service: NamedDependency[Service], adapter_loads: NamedDependency[AdapterLoads]
    ) -> ASGIApp:
        """Load an adapter under a name."""
        asked = convert(parse_object(await _allowed_body(request, service), service.reception.limits), LoadRequest)
        if asked.load_inplace:
            raise RequestError("load_inplace: unload the adapter first, then load it", "load_inplace")
        await adapter_loads.load_adapter(asked.lora_name, asked.lora_path, asked.base_model_name)
        return _said(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @post("/unload_lora_adapter", status_code=200)
    async def unload(
        self, request: AnyRequest, service: NamedDependency[Service], adapter_loads: NamedDependency[AdapterLoads]
    ) -> ASGIApp:
        """Take an adapter out; requests that have it are answered with it."""
        asked = convert(parse_object(await _allowed_body(request, service), service.reception.limits), UnloadRequest)
        adapter_loads.unload(asked.lora_name, asked.base_model_name)
        return _said(f"Success: LoRA adapter '{asked.lora_name}' removed successfully.")


async def _allowed_body(request: AnyRequest, service: Service) -> bytes:
    """The body, from someone who may change what is served. Raises ForbiddenError."""
    key = key_of(request)
    if key is not None and key.role is not Role.ADMIN:
        raise ForbiddenError("This API key changes no adapters: that needs one with the role admin.")
    return await receive_body(request, service)


def _said(text: str) -> ASGIApp:
    return JsonAnswer(text.encode(), content_type=_TEXT)
