"""``/``: for browsers the playground, or a page that leads on where that is off; the same as JSON for everyone else."""

from __future__ import annotations

from importlib.metadata import version

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from api.controllers.docs import tells_model
from api.controllers.intake import AnyRequest
from api.controllers.service import Service
from api.pages.page import Page
from api.pages.playground import playground_page
from api.pages.welcome import Welcome, WelcomeBody, welcome_page
from api.response.sse import encode_json

_LINKS = {
    "models": "/v1/models",
    "chat_completions": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "ready": "/v1/health/ready",
    "metrics": "/v1/metrics",
}
_DOCS_LINKS = {"docs": "/docs", "openapi": "/openapi.json"}


class WelcomeController(Controller):
    """Where a person arrives who was given this server's address."""

    @get("/")
    async def welcome(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """What this is and where it leads."""
        settings = service.settings
        has_docs = settings.docs != "off"
        links = (_DOCS_LINKS if has_docs else {}) | _LINKS
        model = service.model.base_name if tells_model(service) else None
        if prefers_html(request.headers.get("accept", "")):
            if settings.playground:
                return playground_page(_base(request, settings.root_path))
            return welcome_page(
                Welcome(
                    version=version("powertrain"),
                    model=model,
                    origin=_origin(request) + settings.root_path,
                    has_docs=has_docs,
                    needs_key=settings.needs_key,
                )
            )
        paths = {name: f"{settings.root_path}{path}" for name, path in links.items()}
        body = WelcomeBody(name="powertrain", version=version("powertrain"), model=model, links=paths)
        return Page(encode_json(body), "application/json", vary="accept")


def prefers_html(accept: str) -> bool:
    """True when an ``Accept`` header asks for HTML by name, and for JSON not rather."""
    weights: dict[str, float] = {}
    for item in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in item.split(";"))
        weights[kind] = max(weights.get(kind, 0.0), _weight(parameters))
    html = weights.get("text/html", 0.0)
    return html > 0 and html >= weights.get("application/json", 0.0)


def _weight(parameters: list[str]) -> float:
    """The ``q`` of a media type; what is no number counts as nothing."""
    given = next((value[2:] for value in parameters if value.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 0.0


def _base(request: AnyRequest, root_path: str) -> str:
    """What leads from the page's address to the server's root: below a proxy's prefix the slash may be missing."""
    has_slash = request.scope["raw_path"].endswith(b"/")
    return "" if has_slash else root_path.rpartition("/")[2] + "/"


def _origin(request: AnyRequest) -> str:
    """The server's address as the client knows it. ``Host`` was checked, as far as the operator wants it to be."""
    return f"{request.scope['scheme']}://{request.headers.get('host', 'localhost')}"
