"""The replicas as the front sees them, carried by a Ray Serve handle. Owns how Ray's failures are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from api.errors import ModelFailedError
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from runtime.errors import EngineUnavailable, Overloaded, PowertrainError

from fleet.errors import ReplicaLostError
from fleet.relay.wire import Forwarded, Piece

_PROBE_S = 3.0


class RayEngines:
    """``begin_s`` is the longest that a request may look for a replica that takes it."""

    def __init__(self, handle: DeploymentHandle[Any], begin_s: float) -> None:
        self._handle = handle
        self._begin_s = begin_s

    async def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer of the replica that the router chooses.

        Raises ReplicaLostError, EngineUnavailable when none takes it in time, Overloaded when too many wait for one,
        and ModelFailedError when the replica cannot load the package.
        """
        response: DeploymentResponseGenerator[Piece] = self._handle.options(stream=True).answer.remote(request)
        try:
            yield await self._first(response)
            async for piece in response:
                yield piece
        except BackPressureError as error:
            raise Overloaded("too many requests wait for a replica") from error
        except RayActorError as error:
            raise ReplicaLostError(type(error).__name__) from error
        except (RayError, RayServeException) as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, PowertrainError):
                # All but a package that does not load is answered there. The error's text is Ray's, with a trace.
                told = f"The model `{request.package}` is not available: it failed. Its operator sees why."
                raise ModelFailedError(told) from error
            raise ReplicaLostError(f"{type(error).__name__}: {error}") from error
        finally:
            response.cancel()

    async def _first(self, response: DeploymentResponseGenerator[Piece]) -> Piece:
        """What a replica sends when it has the request, before any work on it."""
        try:
            async with asyncio.timeout(self._begin_s):
                return await anext(response)
        except TimeoutError as error:
            raise EngineUnavailable(f"no replica took the request within {self._begin_s:g} s") from error

    async def is_ready(self) -> bool:
        """True when some replica says that it is."""
        try:
            async with asyncio.timeout(_PROBE_S):
                return bool(await self._handle.is_ready.remote())
        except (TimeoutError, RayError, RayServeException):
            return False

    async def metric_pages(self) -> dict[str, str]:
        """The pages of all replicas that answer; one that is going away is left out.

        None while there is no replica, and while one of them does not answer: Ray tells all of them or none.
        """
        asked = self._handle.broadcast("metric_pages")
        try:
            found = await asked.results_async(timeout_s=_PROBE_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException):
            return {}
        return {name: page for pages in found if isinstance(pages, dict) for name, page in pages.items()}
