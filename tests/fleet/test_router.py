"""The router as Ray calls it, on doubles: who gets a request, what counts as running, what is remembered of whom."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

from fleet.relay.wire import Forwarded
from tests.fleet.ray_double import OnDoubles, PendingRequest, ReplicaID, Result, RunningReplica

A, B = ReplicaID("a"), ReplicaID("b")


def replicas(**packages: str) -> list[RunningReplica]:
    return [RunningReplica(ReplicaID(name), frozenset(held.split())) for name, held in packages.items()]


def forwarded(*marks: bytes, package: str = "one") -> Forwarded:
    return Forwarded(
        method="POST", path="/v1/chat/completions", query=b"", headers=(), http_version="1.1", client=None, body=b"{}",
        key_name=None, package=package, marks=marks,
    )  # fmt: skip


def pending(name: str, *marks: bytes, package: str = "one") -> PendingRequest:
    return PendingRequest([forwarded(*marks, package=package)], SimpleNamespace(internal_request_id=name))


class Routing:
    """One router over replicas ``a`` and ``b``, each with package ``one`` unless told otherwise."""

    def __init__(self, on_doubles: OnDoubles, busy_at: int = 2, **packages: str) -> None:
        self.router = on_doubles.router.ConversationRouter()
        self.router.initialize_state(busy_at=busy_at)
        self.router.update_replicas(replicas(**(packages or {"a": "one", "b": "one"})))
        self.held: list[PendingRequest] = []  # as Ray's task that sends a request holds it

    async def chosen(self, request: PendingRequest) -> str:
        """The first choice; the others come behind it, once each."""
        self.held.append(request)
        candidates = list(self.router.curr_replicas.values())
        first, others = await self.router.choose_replicas(candidates, request)
        assert request.routing_context.should_backoff
        (replica,) = first
        assert {*first, *others} == set(candidates)
        assert len(others) == len(candidates) - 1
        return str(replica.replica_id.unique_id)

    async def route(self, request: PendingRequest) -> tuple[str, Result]:
        """Choose, and have the choice accepted."""
        name, result = await self.chosen(request), Result()
        self.router.on_request_routed(request, ReplicaID(name), result)
        return name, result

    def completed(self, name: str, replica: ReplicaID = A) -> None:
        self.router.on_request_completed(replica, name)

    def loads(self) -> tuple[int, int]:
        """Requests of ``a`` and of ``b``."""
        loads = self.router._loads()
        return loads[A], loads[B]


def test_a_conversation_returns_until_its_replica_is_busy_or_gone(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles)
        first, _ = await routing.route(pending("1", b"m1"))
        assert first == "a"
        other, result = await routing.route(pending("2", b"x"))
        assert other == "b"  # the fewest requests
        await result.end()
        assert (await routing.route(pending("3", b"m1", b"m2")))[0] == "a"  # one runs there as well, and it has slots
        assert routing.loads() == (2, 0)
        assert await routing.chosen(pending("4", b"m1", b"m2", b"m3")) == "b"  # two slots, two requests
        routing.router.update_replicas(replicas(b="one"))
        routing.router.update_replicas(replicas(a="one", b="one"))
        assert routing.loads() == (0, 1)
        assert routing.router._affinity.num_held(A) == 0

    asyncio.run(run())


def test_a_request_counts_from_its_choice_to_its_end_however_ray_orders_what_it_tells(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles)
        request = pending("1", b"m")
        name, result = await routing.chosen(request), Result()
        assert routing.loads() == (1, 0)  # on its way
        routing.completed("1")  # a short one's end, told on another thread, comes before its beginning
        routing.router.on_request_routed(request, ReplicaID(name), result)
        assert routing.loads() == (1, 0)
        await result.end()
        assert routing.loads() == (0, 0)
        _, result = await routing.route(pending("2", b"m"))
        routing.completed("2")
        await result.end()
        assert routing.loads() == (0, 0)
        assert not routing.router._on_the_way

    asyncio.run(run())


def test_what_is_given_up_or_refused_counts_no_more(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles)
        cancelled, forgotten, refused = pending("1"), pending("2"), pending("3")
        assert [await routing.chosen(one) for one in (cancelled, forgotten, refused)] == ["a", "b", "a"]
        assert routing.loads() == (2, 1)
        cancelled.future.cancel()
        assert routing.loads() == (1, 1)
        forgotten.future.set_result(None)  # chosen, and then given up before Ray has sent it: nobody tells
        routing.held.remove(forgotten)
        del forgotten
        gc.collect()
        assert routing.loads() == (1, 0)
        routing.completed("3")
        assert routing.loads() == (0, 0)
        # Refused there, taken elsewhere: it counts where it runs.
        routing.router.on_request_routed(refused, B, Result())
        assert routing.loads() == (0, 1)

    asyncio.run(run())


def test_a_dead_replica_takes_its_marks_and_requests_along(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles)
        name, result = await routing.route(pending("1", b"m"))
        assert name == "a"
        routing.router.on_replica_actor_died(A)
        assert list(routing.router.curr_replicas) == [B]
        assert routing.loads() == (0, 0)
        assert routing.router._affinity.holder([b"m"]) is None
        await result.end()  # Ray tells of its request all the same
        assert routing.loads() == (0, 0)

    asyncio.run(run())


def test_a_request_goes_where_its_package_is_loaded_while_there_is_room(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles, 1, a="one", b="two", c="")
        assert await routing.chosen(pending("1", package="two")) == "b"
        assert await routing.chosen(pending("2", package="three")) == "c"  # whoever holds the fewest loads it
        assert routing.loads() == (0, 1)
        # Nobody who has it has room: whoever has the fewest requests, not the fewest packages.
        assert await routing.chosen(pending("3", package="two")) == "a"

    asyncio.run(run())


def test_a_probe_has_no_marks_and_no_package(on_doubles: OnDoubles) -> None:
    async def run() -> None:
        routing = Routing(on_doubles)
        probe = PendingRequest([], SimpleNamespace(internal_request_id="1"))
        assert await routing.chosen(probe) == "a"
        candidates: list[Any] = list(routing.router.curr_replicas.values())
        assert await routing.router.choose_replicas(candidates, None) == [candidates]
        assert await routing.router.choose_replicas([], pending("2")) == [[]]

    asyncio.run(run())
