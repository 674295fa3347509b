"""The application: every route, the error handlers, and the layers around them. ``create_app`` is all it exports."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Response
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp
from runtime.errors import Overloaded

from api.controllers.adapter_loads import AdapterLoads
from api.controllers.adapters import AdaptersController
from api.controllers.admin import AdminController
from api.controllers.chat import ChatController
from api.controllers.choosing import service_of
from api.controllers.completion import CompletionController
from api.controllers.docs import DocsController, keyless_paths
from api.controllers.intake import AnyRequest, releasing, visit_of
from api.controllers.management import ManagementController
from api.controllers.message import MessageController
from api.controllers.models import ModelsController
from api.controllers.playground import PlaygroundController
from api.controllers.registry import ModelRegistry
from api.controllers.responses import ResponsesController
from api.controllers.service import Service
from api.controllers.token import TokenController
from api.controllers.welcome import WelcomeController
from api.edge.access import RECORD_KEY, REFUSAL_KEY, REQUEST_ID_KEY, Edge, cut
from api.edge.cors import Cors
from api.edge.hosts import host_rule
from api.edge.keys import KeyRing
from api.edge.paths import Paths, path_rule
from api.error_answer import ErrorAnswer, answer_from
from api.errors import ClientGoneError
from api.observe.refusal import refusal_fields
from api.process.missing_path import explain_missing
from api.response.message_types import message_error
from api.response.sse import encode_json

_LOG = logging.getLogger("powertrain.api")
_GENERATION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


def create_app(
    service: Service, keys: KeyRing, models: ModelRegistry | None = None, admin_keys: KeyRing | None = None
) -> ASGIApp:
    """The whole server as one ASGI application, for whoever has one of the keys, and of ``admin_keys`` for what loads
    models. ``models`` are those that ``service`` speaks for; None: it is the only one."""
    settings = service.settings
    hosts = host_rule(settings, has_keys=bool(keys))
    routed = routed_app(service, models)
    edge = Edge(
        releasing(routed),
        keys,
        admin_keys or KeyRing(),
        hosts,
        service.metrics.observe_refusal,
        error_body=_error_body,
        keyless=keyless_paths(settings),
    )
    return Paths(Cors(edge, settings.cors_allow_origin), path_rule(settings, (route.path for route in routed.routes)))


def routed_app(service: Service, models: ModelRegistry | None = None) -> Litestar:
    """Every route, without the layers around them. The lifespan starts the first engine and ends all; loading blocks
    nothing."""
    registry = models or ModelRegistry.alone(service)
    adapter_loads = AdapterLoads(registry)

    @asynccontextmanager
    async def engine_lifespan(_app: Litestar) -> AsyncIterator[None]:
        registry.begin()
        if service.gpu is not None:
            service.gpu.start()
        try:
            yield
        finally:
            if service.gpu is not None:
                service.gpu.close()
            await registry.close()
            if service.tracer is not None:
                service.tracer.close()

    on_error = _ErrorHandler(registry)
    return Litestar(
        route_handlers=[
            ChatController,
            CompletionController,
            ResponsesController,
            MessageController,
            ModelsController,
            ManagementController,
            TokenController,
            WelcomeController,
            *([AdminController] if service.settings.has_admin_key else []),
            *([AdaptersController] if service.settings.allow_runtime_lora_updating else []),
            *([DocsController] if service.settings.docs != "off" else []),
            *([PlaygroundController] if service.settings.playground else []),
        ],
        dependencies={
            "service": Provide(lambda: registry.front, sync_to_thread=False),
            "models": Provide(lambda: registry, sync_to_thread=False),
            "adapter_loads": Provide(lambda: adapter_loads, sync_to_thread=False),
        },
        # HTTPException is named beside Exception: Litestar's own failures, malformed requests and unknown paths
        # among them, are subclasses of it.
        exception_handlers={HTTPException: on_error, Exception: on_error},
        lifespan=[engine_lifespan],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=None,  # api.request.json_body counts
        debug=False,  # said explicitly, or Litestar asks the environment
        pdb_on_exception=False,
    )


def _error_body(path: str, answer: ErrorAnswer) -> bytes:
    """A failure as the clients of ``path`` read it."""
    return encode_json(message_error(answer)) if path.startswith("/v1/messages") else answer.body()


class _ErrorHandler:
    """Turns exceptions into the contract's error body and counts them."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    def __call__(self, request: AnyRequest, error: Exception) -> Response[bytes]:
        if isinstance(error, ClientGoneError):
            return Response(b"", status_code=499, media_type="application/json")
        answer = answer_from(error)
        visit = visit_of(request)
        if visit is not None and (answer.status >= 500 or isinstance(error, Overloaded)):
            visit.take_back()
        if answer.status == 404 and isinstance(error, HTTPException):
            paths = {route.path for route in request.app.routes}
            answer = dataclasses.replace(answer, message=explain_missing(request.scope["path"], paths))
        if answer.status == 500:
            fields = {"id": request.scope["state"][REQUEST_ID_KEY], "path": cut(request.scope["path"])}
            _LOG.error("request failed", exc_info=error, extra={"fields": fields})
        if answer.status >= 500:
            self._count_failure(request)
        else:
            service_of(request, self._models).metrics.observe_refusal(answer.status)
            request.scope["state"][REFUSAL_KEY] = refusal_fields(error, answer)
        body = _error_body(request.scope["path"], answer)
        return Response(body, status_code=answer.status, headers=answer.headers, media_type="application/json")

    def _count_failure(self, request: AnyRequest) -> None:
        already_counted = RECORD_KEY in request.scope["state"]
        if request.scope["path"].rstrip("/") in _GENERATION_PATHS and not already_counted:
            service_of(request, self._models).metrics.observe_failure()
