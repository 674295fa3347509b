"""Which of the server's models a request means, and its use of it until it ends. Knows no field beside ``model``.

A server of one model looks at nothing here: the request's own check of its fields says whether the name is right.
"""

from __future__ import annotations

from api.client_gone import unless_gone
from api.controllers.intake import LEASE_KEY, AnyRequest, in_turn
from api.controllers.known_model import KnownModel
from api.controllers.registry import Lease, ModelRegistry
from api.controllers.service import Service
from api.models.state import ModelState
from api.request.named_model import named_model
from api.request.turns import off_loop


async def chosen(request: AnyRequest, models: ModelRegistry, body: bytes) -> Service:
    """What answers a request whose body has arrived. Its model stays loaded until the request ends.

    Where the model is loaded, raises EngineUnavailable unless it is ready and Overloaded when the request would wait
    too long, before anything else is looked at. Where it is not, ``awake`` loads it once the request has proved right.
    Raises NotFoundError for an unknown name, ModelFailedError for a model that failed.
    """
    if models.is_lone:
        models.front.require_room()
        return models.front
    model = await _named(request, models, body)
    request.scope["state"][LEASE_KEY] = models.use(model)
    if model.state is ModelState.FAILED:
        raise model.refusal()
    if model.is_ready:
        model.service.require_room()
    return model.service


async def text_side(request: AnyRequest, models: ModelRegistry, body: bytes) -> Service:
    """The same for what needs no engine: the model may be unloaded, and stays so."""
    if models.is_lone:
        return models.front
    return (await _named(request, models, body)).service


async def awake(request: AnyRequest, service: Service) -> Service:
    """The service that ``chosen`` gave, with its model loaded. Raises what ``ModelRegistry.loaded`` raises, or
    ClientGoneError when the client leaves meanwhile; the model is loaded all the same then."""
    lease: Lease | None = request.scope["state"].get(LEASE_KEY)
    if lease is None:
        return service
    if lease.model.is_ready:
        return lease.model.service
    return await unless_gone(request.receive, lease.registry.loaded(lease.model))


def service_of(request: AnyRequest, models: ModelRegistry) -> Service:
    """The service of the model that a request uses, or what speaks for the server before that is known."""
    lease: Lease | None = request.scope["state"].get(LEASE_KEY)
    return models.front if lease is None or not lease.model.has_service else lease.model.service


async def _named(request: AnyRequest, models: ModelRegistry, body: bytes) -> KnownModel:
    name = await in_turn(request, models.front, len(body), lambda: off_loop(len(body), lambda: named_model(body)))
    return models.named(name)
