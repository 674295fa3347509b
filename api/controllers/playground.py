"""``/playground``: what the page at ``/`` loads, and what it must know of the model beyond what other routes tell.

The page is made in ``api.pages.playground``; ``api.controllers.welcome`` decides who gets it.
"""

from __future__ import annotations

from importlib.metadata import version

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from api.controllers.registry import ModelRegistry
from api.errors import NotFoundError
from api.pages.playground import playground_file, playground_files
from api.response.json_answer import JsonAnswer
from api.served_model import ServedModel
from api.server_settings import Settings


class SampledBy(msgspec.Struct, frozen=True, kw_only=True):
    """What counts where a request names no value: the operator's, the package's, or else OpenAI's."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    max_tokens: int | None


class ModelAbout(msgspec.Struct, frozen=True, kw_only=True):
    """One model as the page's controls need it. ``max_tokens`` of its defaults is null where the context is the bound.

    ``calls_tools``: its template tells the model of tools in a form of its own, or the operator named one.
    """

    name: str
    max_model_len: int
    defaults: SampledBy
    calls_tools: bool
    reasons: bool


class PlaygroundAbout(msgspec.Struct, frozen=True, kw_only=True):
    """What the page asks first. ``docs``: whether there is a page at ``/docs`` to lead to."""

    version: str
    docs: bool
    max_stop_strings: int
    models: list[ModelAbout]


class PlaygroundController(Controller):
    """Everything of the playground but its page."""

    @get("/playground/about")
    async def about(self, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """The models' defaults; needs a key where there is one."""
        settings = models.front.settings
        return JsonAnswer(
            PlaygroundAbout(
                version=version("powertrain"),
                docs=settings.docs != "off",
                max_stop_strings=settings.max_stop_strings,
                models=[_about(service.model) for service in models.services],
            )
        )

    @get("/playground/{name:path}")
    async def file(self, name: FromPath[str]) -> ASGIApp:
        """What the page loads, and the licences of what is not ours in it."""
        wanted = str(name).removeprefix("/")
        if wanted not in playground_files():
            raise NotFoundError(f"/playground has no file {wanted[:64]!r}.")
        return playground_file(wanted)


def playground_paths(settings: Settings) -> frozenset[str]:
    """Paths of files, which hold nothing of the model. A browser loads them before its user can type a key in."""
    if not settings.playground:
        return frozenset()
    return frozenset(f"/playground/{name}" for name in playground_files())


def _about(model: ServedModel) -> ModelAbout:
    given = model.defaults
    return ModelAbout(
        name=model.base_name,
        max_model_len=model.max_model_len,
        defaults=SampledBy(
            temperature=1.0 if given.temperature is None else given.temperature,
            top_p=1.0 if given.top_p is None else given.top_p,
            top_k=given.top_k or 0,
            min_p=given.min_p or 0.0,
            repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
            max_tokens=given.max_new_tokens,
        ),
        calls_tools=model.answers.parses_tools,
        reasons=model.answers.reasoning is not None,
    )
