"""Ray's names as the fleet uses them, without Ray: strict doubles at that seam, for tests that take no seconds.

A name, a parameter or an option that the fleet does not use is not there, so a use of it fails. Whether Ray has those
that are, ``test_doubles.py`` asks it. ``on_doubles`` gives the fleet's own modules, imported over the doubles.
"""

from __future__ import annotations

import asyncio
import importlib
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class RayTaskError(RayError):
    """As a handle raises it: an error of the replica's own class as well, whose text is a trace of the replica."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"ray::ServeReplica (pid=3, ip=127.0.0.1)\n  File /code/x.py\n{cause}")
        self.cause = cause

    def __str__(self) -> str:
        return str(self.args[0])

    @classmethod
    def of(cls, cause: Exception) -> RayTaskError:
        """An error that is both."""
        both = type(f"RayTaskError({type(cause).__name__})", (cls, type(cause)), {})
        made: RayTaskError = both(cause)
        return made


class RayServeException(Exception):
    pass


class BackPressureError(RayServeException):
    pass


@dataclass(frozen=True)
class ReplicaID:
    unique_id: str


@dataclass(frozen=True)
class RunningReplica:
    replica_id: ReplicaID
    multiplexed_model_ids: frozenset[str] = frozenset()


@dataclass(eq=False)
class PendingRequest:
    args: list[Any]
    metadata: SimpleNamespace
    future: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    routing_context: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(should_backoff=False))


class MultiplexMixin:
    pass


class RequestRouter:
    """Holds the replicas, as Ray's does; a double's state is made as Ray makes it, by ``initialize_state``."""

    def __init__(self) -> None:
        self._replicas: dict[ReplicaID, RunningReplica] = {}

    @property
    def curr_replicas(self) -> dict[ReplicaID, RunningReplica]:
        return self._replicas

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        assert isinstance(replicas, list)  # Ray goes through it more than once
        self._replicas = {replica.replica_id: replica for replica in replicas}

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        self._replicas.pop(replica_id, None)


@dataclass
class RequestRouterConfig:
    request_router_class: type
    request_router_kwargs: dict[str, Any]


@dataclass
class Deployment:
    """What ``serve.deployment`` gives, and with ``bind`` an application."""

    made_from: type
    options: dict[str, Any]
    given: tuple[Any, ...] | None = None

    def bind(self, *given: Any) -> Deployment:
        return Deployment(self.made_from, self.options, given)


def deployment(
    _func_or_class: type,
    *,
    name: str,
    ray_actor_options: dict[str, Any],
    max_ongoing_requests: int,
    graceful_shutdown_wait_loop_s: float,
    graceful_shutdown_timeout_s: float,
    health_check_period_s: float,
    health_check_timeout_s: float,
    num_replicas: int | None = None,
    autoscaling_config: dict[str, Any] | None = None,
    max_queued_requests: int = -1,
    request_router_config: RequestRouterConfig | None = None,
    max_surge_percent: int | None = None,
) -> Deployment:
    options = dict(locals())
    del options["_func_or_class"]
    assert (num_replicas is None) != (autoscaling_config is None)
    # Ray refuses these with a ValueError of its own.
    assert max_queued_requests == -1 or max_queued_requests > 0, "max_queued_requests must be -1 or positive"
    assert max_ongoing_requests > 0
    return Deployment(_func_or_class, options)


def multiplexed(*, max_num_models_per_replica: int) -> Callable[[Any], Any]:
    """Keep the results of a method by its argument, the least recently used no longer than there is room."""

    def around(load: Callable[[Any, str], Awaitable[Any]]) -> Any:
        async def kept(self: Any, model_id: str) -> Any:
            models: OrderedDict[str, Any] = self.__dict__.setdefault("models", OrderedDict())
            lock: asyncio.Lock = self.__dict__.setdefault("lock", asyncio.Lock())
            if model_id not in models:
                async with lock:
                    if model_id not in models:
                        if len(models) >= max_num_models_per_replica:
                            _, oldest = models.popitem(last=False)
                            await asyncio.to_thread(oldest.__del__)
                        models[model_id] = await load(self, model_id)
            models.move_to_end(model_id)
            return models[model_id]

        return kept

    return around


def ingress() -> Callable[[type], type]:
    def around(cls: type) -> type:
        assert hasattr(cls, "__serve_build_asgi_app__")
        return cls

    return around


@dataclass
class Cluster:
    """What was asked of Ray in this process, in order, and what becomes of it: ``fails`` raises by name, ``during``
    runs."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fails: dict[str, BaseException] = field(default_factory=dict)
    during: dict[str, Callable[[], None]] = field(default_factory=dict)

    def _note(self, name: str, /, **given: Any) -> None:
        self.calls.append((name, given))
        self.during.get(name, lambda: None)()
        if name in self.fails:
            raise self.fails[name]

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def init(
        self,
        *,
        address: str,
        num_cpus: int,
        include_dashboard: bool,
        object_store_memory: int,
        _node_ip_address: str,
        logging_level: int,
        log_to_driver: bool,
        _system_config: Mapping[str, Any],
    ) -> None:
        given = dict(locals())
        del given["self"]
        services = sys.modules["ray._private.services"]
        given["node"] = services.resolve_ip_for_localhost(_node_ip_address)
        # Ray's own handlers, which abort.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._note("init", **given)

    def shutdown(self) -> None:
        self._note("shutdown")

    def serve_start(self, *, proxy_location: str, http_options: dict[str, Any], logging_config: dict[str, Any]) -> None:
        self._note(
            "serve.start", proxy_location=proxy_location, http_options=http_options, logging_config=logging_config
        )

    def serve_run(self, target: Deployment, *, name: str, route_prefix: str, logging_config: dict[str, Any]) -> None:
        assert target.given is not None
        self._note("serve.run", target=target, name=name, route_prefix=route_prefix, logging_config=logging_config)

    def serve_shutdown(self) -> None:
        self._note("serve.shutdown")


@dataclass
class Response:
    """A streaming call's: pieces, then perhaps an error. ``None`` among the pieces waits for ever."""

    pieces: list[Any]
    fails: Exception | None = None
    cancelled: bool = False

    def __aiter__(self) -> Response:
        return self

    async def __anext__(self) -> Any:
        if self.pieces:
            piece = self.pieces.pop(0)
            return await asyncio.Event().wait() if piece is None else piece
        raise self.fails or StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Handle:
    """A deployment's handle. ``ready`` and ``pages`` are results, or errors to raise; None never comes."""

    response: Response = field(default_factory=lambda: Response([]))
    ready: Any = True
    pages: Any = None
    asked: list[Any] = field(default_factory=list)
    is_streaming: bool = False

    def options(self, *, stream: bool) -> Handle:
        return Handle(self.response, self.ready, self.pages, self.asked, stream)

    @property
    def answer(self) -> Any:
        def remote(request: Any) -> Response:
            assert self.is_streaming
            self.asked.append(request)
            return self.response

        return SimpleNamespace(remote=remote)

    @property
    def is_ready(self) -> Any:
        return SimpleNamespace(remote=lambda: _result(self.ready))

    def broadcast(self, method_name: str) -> Any:
        assert method_name == "metric_pages"

        async def results_async(*, timeout_s: float, return_exceptions: bool) -> Any:
            assert timeout_s > 0
            assert return_exceptions
            return await _result(self.pages)

        return SimpleNamespace(results_async=results_async)


async def _result(given: Any) -> Any:
    if isinstance(given, Exception):
        raise given
    return await asyncio.Event().wait() if given is None else given


class Result:
    """What ``on_request_routed`` is given: tells its end on a thread of its own, also when it is asked late."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self._has_ended = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    async def end(self) -> None:
        for callback in self._callbacks:
            await asyncio.to_thread(callback, None)
        await asyncio.sleep(0)  # what the thread has asked of the loop


@dataclass
class OnDoubles:
    """The fleet's modules over one double of a cluster. ``replica_name`` is what Ray calls the replica made next."""

    cluster: Cluster
    modules: dict[str, ModuleType]
    grpc_addresses: list[str]
    replica_name: str = "replica-1"

    def __getattr__(self, name: str) -> Any:
        try:
            return self.modules[name]
        except KeyError:
            raise AttributeError(name) from None


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    made.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, made)
    parent, _, own = name.rpartition(".")
    if parent and not hasattr(sys.modules[parent], own):  # serve.deployment is a module's name and a function's
        setattr(sys.modules[parent], own, made)
    return made


@pytest.fixture
def on_doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[OnDoubles]:
    """``fleet.on_ray`` over the doubles; handlers of signals are what they were afterwards."""
    cluster = Cluster()
    addresses: list[str] = []
    made = OnDoubles(cluster, {}, addresses)
    names = {"MultiplexMixin": MultiplexMixin, "PendingRequest": PendingRequest, "ReplicaID": ReplicaID}
    _module(monkeypatch, "ray", init=cluster.init, shutdown=cluster.shutdown, __path__=[])
    _module(
        monkeypatch,
        "ray.serve",
        __path__=[],
        deployment=deployment,
        multiplexed=multiplexed,
        ingress=ingress,
        start=cluster.serve_start,
        run=cluster.serve_run,
        shutdown=cluster.serve_shutdown,
        get_replica_context=lambda: SimpleNamespace(replica_id=ReplicaID(made.replica_name)),
    )
    _module(monkeypatch, "ray.serve.config", RequestRouterConfig=RequestRouterConfig)
    _module(monkeypatch, "ray.serve.deployment", Application=Deployment)
    _module(monkeypatch, "ray.serve.handle", DeploymentHandle=dict, DeploymentResponseGenerator=dict)
    _module(
        monkeypatch, "ray.serve.request_router", RequestRouter=RequestRouter, RunningReplica=RunningReplica, **names
    )
    _module(
        monkeypatch, "ray.serve.exceptions", BackPressureError=BackPressureError, RayServeException=RayServeException
    )
    _module(monkeypatch, "ray.serve._private", __path__=[])

    def add_port_to_grpc_server(_server: Any, address: str) -> int:
        addresses.append(address)
        return 7

    _module(monkeypatch, "ray.serve._private.replica", add_port_to_grpc_server=add_port_to_grpc_server)
    _module(monkeypatch, "ray.exceptions", RayActorError=RayActorError, RayError=RayError, RayTaskError=RayTaskError)
    _module(monkeypatch, "ray._private", __path__=[])
    _module(monkeypatch, "ray._private.services", resolve_ip_for_localhost=lambda host: f"address of {host}")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    owned = ("router", "engines", "loopback", "left_over", "deployments", "cluster")
    for name in owned:
        monkeypatch.delitem(sys.modules, f"fleet.on_ray.{name}", raising=False)
    made.modules = {name: importlib.import_module(f"fleet.on_ray.{name}") for name in owned}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)
    for name in owned:
        sys.modules.pop(f"fleet.on_ray.{name}", None)


async def all_of(pieces: AsyncGenerator[Any, None]) -> list[Any]:
    return [piece async for piece in pieces]
