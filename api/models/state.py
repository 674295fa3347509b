"""Where each model of a server stands, and what that says of the server as a whole. Values and rules only."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class ModelState(StrEnum):
    """Where a model stands. Only a READY one answers; a FAILED one waits for its operator."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


def can_serve(states: Collection[ModelState], *, has_served: bool, on_demand: bool) -> bool:
    """Whether a server with models in these states is to get requests.

    Not before the first is READY; from then on as long as one is READY or, ``on_demand``, would be loaded for a
    request, because while one model makes room for another none may be READY for a moment.
    """
    waiting = {ModelState.UNLOADED, ModelState.LOADING, ModelState.UNLOADING}
    return ModelState.READY in states or (has_served and on_demand and not waiting.isdisjoint(states))


def is_alive(states: Collection[ModelState]) -> bool:
    """Whether anything but a restart helps: False once every model has failed."""
    return any(state is not ModelState.FAILED for state in states)
