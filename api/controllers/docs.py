"""``/openapi.json`` and ``/docs``: the interface described, and a page to read and try it, without another network.

The page is made in ``api.pages.explorer``, the description in ``api.controllers.openapi``.
"""

from __future__ import annotations

from functools import cache

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from api.controllers.intake import AnyRequest
from api.controllers.openapi import openapi_document
from api.controllers.openapi_schemas import Interface
from api.controllers.playground import playground_paths
from api.controllers.service import Service
from api.errors import NotFoundError
from api.pages.explorer import FILE_NAMES, explorer_file, explorer_page
from api.pages.page import Page
from api.response.sse import encode_json
from api.server_settings import Settings

_PATHS = ("/docs", "/openapi.json", *(f"/docs/{name}" for name in sorted(FILE_NAMES)))


class DocsController(Controller):
    """The interface's own description."""

    @get("/openapi.json")
    async def description(self, service: NamedDependency[Service]) -> ASGIApp:
        """OpenAPI 3.1."""
        return _description(_interface(service))

    @get("/docs")
    async def page(self, request: AnyRequest) -> ASGIApp:
        """The same for people, who can try it there."""
        return explorer_page("../" if request.scope["raw_path"].endswith(b"/") else "./")

    @get("/docs/{name:str}")
    async def file(self, name: FromPath[str]) -> ASGIApp:
        """What the page loads, and the licences of what is not ours in it."""
        if name not in FILE_NAMES:
            raise NotFoundError(f"/docs has no file {name[:64]!r}.")
        return explorer_file(name)


def keyless_paths(settings: Settings) -> frozenset[str]:
    """Paths that GET and HEAD read without a key: what a browser must load before its user can type one in."""
    if settings.docs != "open":
        return frozenset()
    return frozenset({"/", *_PATHS, *(f"{path}/" for path in _PATHS), *playground_paths(settings)})


def tells_model(service: Service) -> bool:
    """Whether the pages may name the model: not to whoever has no key, where one is needed for everything else."""
    return not service.settings.needs_key or service.settings.docs != "open"


def _interface(service: Service) -> Interface:
    settings = service.settings
    return Interface(
        server=settings.root_path or "./",
        model=service.model.base_name if tells_model(service) else None,
        needs_key=settings.needs_key,
        has_admin_key=settings.has_admin_key,
        trusts_chat_templates=settings.trust_request_chat_template,
        max_stop_strings=settings.max_stop_strings,
    )


@cache
def _description(interface: Interface) -> Page:
    return Page(encode_json(openapi_document(interface)), "application/json")
