"""The two deployments of a fleet: replicas that hold engines, and the front that stands before them.

Owns how Ray's life of a replica is mapped: it counts as started when its engine is ready, as unhealthy when the engine
died or hangs, and ends when its requests have. Rules of routing and of requests are elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator
from typing import Any

from api.observe.logs import configure_logging
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle

from fleet.hosting.engine_host import EngineHost, open_host
from fleet.on_ray.engines import RayEngines
from fleet.on_ray.loopback import replica_on_loopback
from fleet.on_ray.router import ConversationRouter
from fleet.plan.spec import FleetSpec
from fleet.relay.application import front_application, without_request_id
from fleet.relay.packages import Packages
from fleet.relay.wire import Forwarded, Piece

_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 10.0
_LEAST_BEGIN_S = 10.0
_LOOK_BACK_S, _LEAST_LOOK_BACK_S = 30.0, 2.0
# Ray gives workers this environment: ONNX Runtime looks for it when it is first imported (powertrain.py).
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


class _Resident:
    """A loaded package as Ray's multiplexing keeps it: unloading calls ``__del__``, on a thread."""

    def __init__(self, host: EngineHost, loop: asyncio.AbstractEventLoop, drain_s: float) -> None:
        self.host = host
        self._loop = loop
        self._drain_s = drain_s
        self._is_closed = False

    def __del__(self) -> None:
        """Let running answers end, then free everything; only the first call counts. Waits for it, but where nobody
        unloaded it, so that the garbage collector calls this on the loop itself."""
        if not self._is_closed and self._loop.is_running():
            self._is_closed = True
            closing = asyncio.run_coroutine_threadsafe(self.host.close(self._drain_s), self._loop)
            if _loop_here() is not self._loop:
                closing.result()


def _loop_here() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs on this thread; None where there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class EngineReplica:
    """One replica: an engine of its own for each package that it holds."""

    async def __init__(self, spec: FleetSpec) -> None:  # type: ignore[misc]  # Ray Serve awaits it
        _begin(spec)
        self._spec = spec
        self._name = serve.get_replica_context().replica_id.unique_id
        self._hosts: dict[str, EngineHost] = {}
        self._loading: set[asyncio.Future[_Resident]] = set()
        await self.resident(spec.packages[0].names[0])

    async def resident(self, package: str) -> _Resident:
        """Load a package, ready; Ray's multiplexing, which ``fleet_application`` adds, keeps as many as fit.

        Raises PowertrainError when it cannot be loaded.
        """
        host = await open_host(self._spec.engine_settings, self._spec.folders[package])
        self._hosts = {name: kept for name, kept in self._hosts.items() if kept.is_ready}
        self._hosts[package] = host
        return _Resident(host, asyncio.get_running_loop(), self._spec.settings.drain_timeout_s)

    async def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer; the first, empty, says that the request has a replica."""
        yield Piece()
        loading = asyncio.ensure_future(self.resident(request.package))
        self._loading.add(loading)  # the event loop keeps none of its tasks
        loading.add_done_callback(self._loading.discard)
        resident = await asyncio.shield(loading)  # a client that leaves does not take the model from the next one
        async with contextlib.aclosing(resident.host.answer(request)) as pieces:
            async for piece in pieces:
                yield piece

    async def is_ready(self) -> bool:
        """True when a request for some package would be answered."""
        return any(host.is_ready for host in self._hosts.values())

    async def metric_pages(self) -> dict[str, str]:
        """The metrics of each package held, by this replica's name."""
        pages = [host.metrics_page() for host in self._hosts.values() if host.is_ready]
        return {self._name if number == 0 else f"{self._name}-{number}": page for number, page in enumerate(pages)}

    async def check_health(self) -> None:
        """Ray's health check. Raises EngineUnavailable when an engine died or hangs: Ray replaces the replica."""
        for host in self._hosts.values():
            host.check()


class FrontReplica:
    """The front: Ray's proxy hands it every HTTP request."""

    def __init__(self, engines: DeploymentHandle[Any], spec: FleetSpec) -> None:
        _begin(spec)
        self._engines = RayEngines(engines, max(_LEAST_BEGIN_S, spec.settings.max_queue_time_s))
        self._spec = spec

    def __serve_build_asgi_app__(self) -> Any:  # noqa: ANN401 - ray's protocol
        """The application, as Ray Serve asks for one that needs the constructor's arguments."""
        application = front_application(self._engines, self._spec.settings, Packages(self._spec.packages))
        return without_request_id(application)


def fleet_application(spec: FleetSpec) -> Application:
    """The application to give to ``serve.run``."""

    class Engine(EngineReplica):
        resident = serve.multiplexed(max_num_models_per_replica=spec.num_resident)(EngineReplica.resident)

    drain_s = spec.settings.drain_timeout_s
    engines = serve.deployment(
        Engine,
        name="engine",
        **_scale(spec),
        ray_actor_options={
            "num_cpus": spec.threads,
            "num_gpus": spec.num_gpus,
            "runtime_env": {"env_vars": _ENVIRONMENT},
        },
        max_ongoing_requests=spec.max_ongoing,
        max_queued_requests=spec.max_ongoing,  # Ray counts what is about to be taken as well, and knows no 0
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=drain_s + 5.0,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        request_router_config=RequestRouterConfig(
            request_router_class=ConversationRouter, request_router_kwargs={"busy_at": spec.busy_at}
        ),
    )
    front = serve.deployment(
        serve.ingress()(FrontReplica),
        name="front",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": _ENVIRONMENT}},
        max_ongoing_requests=spec.max_replicas * spec.max_ongoing + 64,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=drain_s + 5.0,
        health_check_period_s=_HEALTH_PERIOD_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        max_surge_percent=100,  # an update starts the new front before the old one ends
    )
    keyless = dataclasses.replace(spec, settings=spec.engine_settings)
    return front.bind(engines.bind(keyless), spec)


def _begin(spec: FleetSpec) -> None:
    """What the process of any replica does first."""
    configure_logging(spec.settings)
    if spec.on_loopback:
        replica_on_loopback()


def _scale(spec: FleetSpec) -> dict[str, Any]:
    if spec.max_replicas == spec.min_replicas:
        return {"num_replicas": spec.min_replicas}
    up_s, down_s = spec.settings.scale_up_delay_s, spec.settings.scale_down_delay_s
    return {
        "autoscaling_config": {
            "min_replicas": spec.min_replicas,
            "max_replicas": spec.max_replicas,
            "target_ongoing_requests": spec.busy_at,
            "upscale_delay_s": up_s,
            "downscale_delay_s": down_s,
            # Ray decides by a mean over this time, which would make a shorter delay longer.
            "look_back_period_s": min(_LOOK_BACK_S, max(up_s, _LEAST_LOOK_BACK_S)),
        }
    }
