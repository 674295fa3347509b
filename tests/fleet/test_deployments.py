"""Replicas and front as Ray makes them, on doubles: what is asked of Ray, packages that come and go, health, pages."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.server_settings import Settings
from fleet.plan.spec import FleetSpec
from fleet.relay.packages import FleetPackage
from fleet.relay.wire import Forwarded, Piece, Reserve
from runtime.errors import EngineUnavailable, PackageError
from tests.fleet.ray_double import Deployment, OnDoubles, all_of
from tests.fleet.test_router import forwarded

ANSWER = Piece(reserve=Reserve(num_prompt_tokens=1, max_generated=2))
SECRET = Settings(api_key=("alpha=a-secret-of-alpha",), drain_timeout_s=7.0, max_queue=3, max_queue_time_s=20.0)


def spec_of(settings: Settings = SECRET, **changes: Any) -> FleetSpec:
    packages = tuple(
        FleetPackage(names=(name,), folder=Path("/models") / name, created_unix=1, max_model_len=64)
        for name in ("one", "two", "three")
    )
    made = FleetSpec(
        settings=settings,
        engine_settings=dataclasses.replace(settings, api_key=(), threads=2),
        packages=packages,
        min_replicas=2,
        max_replicas=2,
        threads=2,
        num_gpus=0,
        busy_at=4,
        num_resident=1,
    )
    return dataclasses.replace(made, **changes)


@dataclass
class Host:
    """An engine's host. ``is_ready`` ends with ``close``; ``check`` raises when it is broken."""

    folder: Path
    settings: Settings
    is_ready: bool = True
    is_broken: bool = False
    closed: list[float] = field(default_factory=list)
    seen: list[Forwarded] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)

    def check(self) -> None:
        if self.is_broken:
            raise EngineUnavailable("dead")

    def metrics_page(self) -> str:
        return f"page of {self.folder.name}"

    async def answer(self, request: Forwarded) -> AsyncGenerator[Piece, None]:
        self.seen.append(request)
        try:
            yield ANSWER
            yield ANSWER
        finally:
            self.left.append(True)

    async def close(self, drain_s: float) -> None:
        self.is_ready = False
        for _ in range(500):
            await asyncio.sleep(0)  # answers end
        self.closed.append(drain_s)


class Loading:
    """``open_host``: hosts by the order of their opening; ``fails`` is raised, ``gate`` waited for."""

    def __init__(self, on_doubles: OnDoubles, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[Host] = []
        self.begun: list[str] = []
        self.closed: list[list[str]] = []  # what had been, when each was begun
        self.fails: Exception | None = None
        self.gate: asyncio.Event | None = None
        monkeypatch.setattr(on_doubles.deployments, "open_host", self.open)

    async def open(self, settings: Settings, folder: Path) -> Host:
        self.begun.append(folder.name)
        self.closed.append([host.folder.name for host in self.hosts if host.closed])
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        self.hosts.append(Host(folder, settings))
        return self.hosts[-1]


@pytest.fixture
def loading(on_doubles: OnDoubles, monkeypatch: pytest.MonkeyPatch) -> Loading:
    return Loading(on_doubles, monkeypatch)


def deployments(on_doubles: OnDoubles, spec: FleetSpec) -> tuple[Deployment, Deployment]:
    """The front's and the engines'."""
    front = on_doubles.deployments.fleet_application(spec)
    assert front.given is not None
    engines, given = front.given
    assert given is spec
    return front, engines


async def replica(on_doubles: OnDoubles, spec: FleetSpec) -> Any:
    """One engine replica, made as Ray makes it."""
    _, engines = deployments(on_doubles, spec)
    made: Any = object.__new__(engines.made_from)
    assert engines.given is not None
    await made.__init__(*engines.given)
    return made


def test_what_is_asked_of_ray(on_doubles: OnDoubles) -> None:
    front, engines = deployments(on_doubles, spec_of())
    health = {"health_check_period_s": 2.0, "health_check_timeout_s": 10.0}
    environment = {"env_vars": {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}}
    config = engines.options.pop("request_router_config")
    assert config.request_router_class is on_doubles.router.ConversationRouter
    assert config.request_router_kwargs == {"busy_at": 4}
    same = {"graceful_shutdown_wait_loop_s": 0.2, "graceful_shutdown_timeout_s": 12.0, "autoscaling_config": None}
    assert engines.options == {
        **same, **health, "name": "engine", "num_replicas": 2, "max_surge_percent": None,
        "ray_actor_options": {"num_cpus": 2, "num_gpus": 0, "runtime_env": environment},
        "max_ongoing_requests": 7, "max_queued_requests": 7,
    }  # fmt: skip
    assert front.options == {
        **same, **health, "name": "front", "num_replicas": 1, "max_surge_percent": 100,
        "ray_actor_options": {"num_cpus": 0, "runtime_env": environment},
        "max_ongoing_requests": 2 * 7 + 64, "max_queued_requests": -1, "request_router_config": None,
    }  # fmt: skip
    _, engines = deployments(on_doubles, spec_of(num_gpus=1))
    assert engines.options["ray_actor_options"]["num_gpus"] == 1


def test_an_engines_replica_is_given_no_key(on_doubles: OnDoubles) -> None:
    _, engines = deployments(on_doubles, spec_of())
    assert "a-secret-of-alpha" not in repr(engines.given)
    assert engines.given == (dataclasses.replace(spec_of(), settings=spec_of().engine_settings),)


def test_nobody_may_wait_and_ray_is_asked_for_no_queue_of_none(on_doubles: OnDoubles) -> None:
    spec = spec_of(dataclasses.replace(SECRET, max_queue=0))
    _, engines = deployments(on_doubles, spec)
    assert (engines.options["max_ongoing_requests"], engines.options["max_queued_requests"]) == (4, 4)


@pytest.mark.parametrize(("up_s", "look_back_s"), [(10.0, 10.0), (0.5, 2.0), (90.0, 30.0)])
def test_a_fleet_that_grows(on_doubles: OnDoubles, up_s: float, look_back_s: float) -> None:
    settings = dataclasses.replace(SECRET, scale_up_delay_s=up_s, scale_down_delay_s=600.0)
    front, engines = deployments(on_doubles, spec_of(settings, max_replicas=6))
    assert engines.options["num_replicas"] is None
    assert engines.options["autoscaling_config"] == {
        "min_replicas": 2, "max_replicas": 6, "target_ongoing_requests": 4, "upscale_delay_s": up_s,
        "downscale_delay_s": 600.0, "look_back_period_s": look_back_s,
    }  # fmt: skip
    assert front.options["max_ongoing_requests"] == 6 * 7 + 64


def test_a_replica_starts_with_the_first_package_and_answers_with_the_one_asked_for(
    on_doubles: OnDoubles, loading: Loading
) -> None:
    async def run() -> None:
        one = await replica(on_doubles, spec_of())
        (host,) = loading.hosts
        assert (host.folder, host.settings) == (Path("/models/one"), spec_of().engine_settings)
        asked = forwarded(package="one")
        assert await all_of(one.answer(asked)) == [Piece(), ANSWER, ANSWER]
        assert host.seen == [asked]
        pieces = one.answer(forwarded(package="one"))
        assert [await anext(pieces), await anext(pieces)] == [Piece(), ANSWER]
        await pieces.aclose()
        assert host.left == [True, True]  # who stops reading ends the work
        assert await one.is_ready()
        assert await one.metric_pages() == {"replica-1": "page of one"}

    asyncio.run(run())


def test_the_least_recently_used_package_makes_room_after_its_answers(on_doubles: OnDoubles, loading: Loading) -> None:
    async def run() -> None:
        made = await replica(on_doubles, spec_of(num_resident=2))
        await all_of(made.answer(forwarded(package="two")))
        assert await made.metric_pages() == {"replica-1": "page of one", "replica-1-1": "page of two"}
        await all_of(made.answer(forwarded(package="one")))
        await all_of(made.answer(forwarded(package="three")))
        one, two, three = loading.hosts
        assert (one.closed, two.closed, three.closed) == ([], [7.0], [])
        assert loading.closed == [[], [], ["two"]]  # it has made room before
        assert await made.metric_pages() == {"replica-1": "page of one", "replica-1-1": "page of three"}
        two.is_broken = True
        await made.check_health()  # what has made room is nobody's concern
        three.is_broken = True
        with pytest.raises(EngineUnavailable):
            await made.check_health()
        one.is_ready = False
        assert await made.is_ready()  # some package
        three.is_ready = False
        assert not await made.is_ready()

    asyncio.run(run())


def test_a_package_is_closed_once(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        host = Host(Path("one"), SECRET)
        resident = on_doubles.deployments._Resident(host, asyncio.get_running_loop(), 3.0)
        await asyncio.to_thread(resident.__del__)
        await asyncio.to_thread(resident.__del__)
        assert host.closed == [3.0]
        # Collected without having been unloaded, it waits for nothing: the loop would wait for itself.
        other = Host(Path("two"), SECRET)
        on_doubles.deployments._Resident(other, asyncio.get_running_loop(), 3.0).__del__()
        assert not other.closed
        for _ in range(510):
            await asyncio.sleep(0)
        assert other.closed == [3.0]

    asyncio.run(run())


def test_a_package_that_does_not_load_is_told_and_tried_again(on_doubles: OnDoubles, loading: Loading) -> None:
    async def run() -> None:
        made = await replica(on_doubles, spec_of(num_resident=2))
        loading.fails = PackageError("broken")
        pieces = made.answer(forwarded(package="two"))
        assert await anext(pieces) == Piece()
        with pytest.raises(PackageError):
            await anext(pieces)
        assert await made.is_ready()
        await made.check_health()
        loading.fails = None
        assert await all_of(made.answer(forwarded(package="two"))) == [Piece(), ANSWER, ANSWER]

    asyncio.run(run())


def test_a_client_that_leaves_takes_no_package_from_the_next_one(on_doubles: OnDoubles, loading: Loading) -> None:
    async def run() -> None:
        made = await replica(on_doubles, spec_of(num_resident=2))
        loading.gate = asyncio.Event()
        first = asyncio.create_task(all_of(made.answer(forwarded(package="two"))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        assert len(made._loading) == 1  # whose task nobody else holds
        second = asyncio.create_task(all_of(made.answer(forwarded(package="two"))))
        loading.gate.set()
        assert await second == [Piece(), ANSWER, ANSWER]
        assert loading.begun == ["one", "two"]  # the second found what the first had begun
        assert not made._loading

    asyncio.run(run())


@pytest.mark.parametrize(("on_loopback", "bound"), [(True, "127.0.0.1:0"), (False, "[::]:0")])
def test_each_replica_of_a_cluster_of_ours_listens_on_loopback(
    on_doubles: OnDoubles, loading: Loading, on_loopback: bool, bound: str
) -> None:
    asyncio.run(replica(on_doubles, spec_of(on_loopback=on_loopback)))
    assert loading.hosts
    serve_replica = on_doubles.loopback.ray.serve._private.replica
    assert serve_replica.add_port_to_grpc_server(object(), "[::]:0") == 7
    assert on_doubles.grpc_addresses == [bound]


def front_of(on_doubles: OnDoubles, spec: FleetSpec, handle: Any = None) -> Any:
    front, _ = deployments(on_doubles, spec)
    return front.made_from(handle, spec)


def test_each_replica_logs_as_the_settings_say(
    on_doubles: OnDoubles, loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(on_doubles.deployments, "configure_logging", lambda settings: told.append(settings.log_level))
    spec = dataclasses.replace(spec_of(), settings=Settings(log_level="debug"))
    front_of(on_doubles, spec)
    asyncio.run(replica(on_doubles, dataclasses.replace(spec, engine_settings=Settings(log_level="error"))))
    assert told == ["debug", "error"]
    assert loading.hosts


@pytest.mark.parametrize(("queue_s", "begin_s"), [(20.0, 20.0), (2.0, 10.0), (0.0, 10.0)])
def test_a_request_looks_for_a_replica_as_long_as_it_may_wait(
    on_doubles: OnDoubles, queue_s: float, begin_s: float
) -> None:
    made = front_of(on_doubles, spec_of(dataclasses.replace(SECRET, max_queue_time_s=queue_s)))
    assert made._engines._begin_s == begin_s


def test_the_front_asks_for_the_keys_and_leaves_the_id_to_rays_proxy(on_doubles: OnDoubles) -> None:
    app = front_of(on_doubles, spec_of()).__serve_build_asgi_app__()

    async def get(**headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/v1/models", headers=headers)

    ask: Callable[..., httpx.Response] = lambda **headers: asyncio.run(get(**headers))  # noqa: E731
    assert ask().status_code == 401
    answer = ask(authorization="Bearer a-secret-of-alpha")
    assert [card["id"] for card in answer.json()["data"]] == ["one", "two", "three"]
    assert "x-request-id" not in answer.headers
