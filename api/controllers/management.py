"""Health, version, metadata, licence, manifest and metrics: what orchestrators ask a server. No inference."""

from __future__ import annotations

import hashlib
from importlib.metadata import version

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import UNSET, UnsetType

from api.controllers.intake import AnyRequest, key_of
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.edge.api_key import Role
from api.errors import ForbiddenError
from api.observe.metrics import CONTENT_TYPE
from api.response.json_answer import JsonAnswer
from api.served_model import ServedModel

API_VERSION = "1.0.0"


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """A probe's answer. ``models`` tells where each of several models stands, to whoever needs no key for that."""

    object: str = "health.response"
    message: str
    models: dict[str, str] | UnsetType = UNSET


class VersionBody(msgspec.Struct, frozen=True):
    """The product's release and the version of this HTTP interface."""

    release: str
    api: str


class LicenseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model's licence. ``sha`` is the SHA-1 of ``content``, ``size`` its length in characters."""

    name: str
    path: str = "LICENSE"
    sha: str
    size: int
    url: str = ""
    type: str = "file"
    content: str


class ModelInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Name and version of a model, and where it came from."""

    short_name: str
    model_url: str


class Metadata(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What the server consists of."""

    version: str
    asset_info: list[str]
    license_info: LicenseInfo
    model_info: list[ModelInfo]


class ManifestBody(msgspec.Struct, frozen=True):
    """The package's manifest as YAML text (JSON is YAML)."""

    manifest_file: str


class ManagementController(Controller):
    """Everything about the server but its answers."""

    @get(["/v1/health/live"])
    async def live(self, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """The process runs and its engine has neither died nor hung: a restart would mend nothing."""
        models.require_alive()
        return JsonAnswer(HealthBody(message="Service is live.", models=_states(models)))

    @get(["/v1/health/ready", "/health", "/ping"])
    async def ready(self, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """A request sent now would be answered."""
        models.require_ready()
        return JsonAnswer(HealthBody(message="Service is ready.", models=_states(models)))

    @get("/v1/version")
    async def version(self) -> ASGIApp:
        """Versions of product and interface."""
        return JsonAnswer(VersionBody(version("powertrain"), API_VERSION))

    @get("/version")
    async def plain_version(self) -> ASGIApp:
        """The product's version alone, as vLLM tells it."""
        return JsonAnswer({"version": version("powertrain")})

    @get("/v1/metadata")
    async def metadata(self, service: NamedDependency[Service]) -> ASGIApp:
        """Model, files and licence."""
        model = service.model
        manifest = model.manifest
        digest = manifest.source.sha256[:12] if manifest else "unknown"
        source = f"{manifest.source.kind}://{manifest.source.name}" if manifest else ""
        return JsonAnswer(
            Metadata(
                version=version("powertrain"),
                asset_info=sorted(manifest.files) if manifest else [],
                license_info=_license(model),
                model_info=[ModelInfo(f"{model.base_name}:{digest}", source)],
            )
        )

    @get("/v1/license")
    async def license(self, service: NamedDependency[Service]) -> ASGIApp:
        """The model's licence text."""
        return JsonAnswer(_license(service.model))

    @get("/v1/manifest")
    async def manifest(self, service: NamedDependency[Service]) -> ASGIApp:
        """The package's manifest."""
        manifest = service.model.manifest
        text = msgspec.json.format(msgspec.json.encode(manifest)).decode() if manifest else ""
        return JsonAnswer(ManifestBody(text))

    @get(["/v1/metrics", "/metrics"])
    async def metrics(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """Metrics in Prometheus' text format, which tell of every client: not for one of them."""
        key = key_of(request)
        if key is not None and key.role is Role.CLIENT:
            raise ForbiddenError("This API key does not open metrics: they need one with the role metrics or admin.")
        return JsonAnswer(service.metrics.page(), content_type=CONTENT_TYPE)


def _states(models: ModelRegistry) -> dict[str, str] | UnsetType:
    if models.is_lone or models.front.settings.needs_key:
        return UNSET
    return {model.name: model.state.value for model in models.models}


def _license(model: ServedModel) -> LicenseInfo:
    text = model.license_text
    # SHA-1 identifies the text as NIM's clients expect; it protects nothing.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return LicenseInfo(name=model.license_name, sha=sha, size=len(text), content=text)
