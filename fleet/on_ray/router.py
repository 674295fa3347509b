"""Ray Serve's request router by conversation: ``fleet.routing`` told of Ray's replicas. Owns no rule.

It runs in the front's process, through which every request goes, so it counts loads itself instead of asking replicas.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ray.serve.request_router import (
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from fleet.relay.wire import Forwarded
from fleet.routing.affinity import Affinity, choose


class ConversationRouter(MultiplexMixin, RequestRouter):
    """Sends a conversation back to the replica that holds its cache, everything else to the least loaded one."""

    def initialize_state(self, busy_at: int) -> None:
        """``busy_at`` is the number of requests from which a conversation may leave its replica."""
        self._busy_at = busy_at
        self._affinity: Affinity[ReplicaID] = Affinity()
        self._running: dict[str, ReplicaID] = {}
        # Requests on their way to a replica count there already: of several that come at once, each sees the others.
        # Not kept alive by that: one that is given up between two steps of Ray's is told of by nobody.
        self._on_the_way: dict[str, tuple[weakref.ref[PendingRequest], ReplicaID]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica that the request should have, then the others, should that one refuse."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        everywhere = self._loads()
        eligible = self._with_model(_package(pending_request), candidate_replicas, everywhere)
        loads = {replica.replica_id: everywhere[replica.replica_id] for replica in eligible}
        chosen = choose(self._affinity, _marks(pending_request), loads, self._busy_at)
        if chosen is None:
            return [candidate_replicas]
        self._on_the_way[pending_request.metadata.internal_request_id] = weakref.ref(pending_request), chosen
        return [[by_id[chosen]], [replica for replica in candidate_replicas if replica.replica_id != chosen]]

    def _loads(self) -> Counter[ReplicaID]:
        """Requests of each replica. One that was given up on its way counts no more."""
        requests = {name: request() for name, (request, _) in self._on_the_way.items()}
        for name in [name for name, request in requests.items() if request is None or request.future.cancelled()]:
            del self._on_the_way[name]
        return Counter([*self._running.values(), *(replica for _, replica in self._on_the_way.values())])

    def _with_model(
        self, model: str, candidates: list[RunningReplica], loads: Counter[ReplicaID]
    ) -> list[RunningReplica]:
        """Those that have the model loaded while one of them has room, else those with the fewest, to load it."""
        having = [replica for replica in candidates if model in replica.multiplexed_model_ids]
        if any(loads[replica.replica_id] < self._busy_at for replica in having):
            return having
        fewest = min((len(replica.multiplexed_model_ids) for replica in candidates), default=0)
        least = [replica for replica in candidates if len(replica.multiplexed_model_ids) == fewest]
        return candidates if having else least

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:  # noqa: ANN401 - ray's
        """The replica has accepted: it will hold the request's prompt."""
        name = pending_request.metadata.internal_request_id
        self._on_the_way.pop(name, None)
        self._running[name] = replica_id
        self._affinity.note(_marks(pending_request), replica_id)
        # Ray may tell of the end of a short request before it tells of this, so the end is asked for here.
        loop = asyncio.get_running_loop()
        result.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, name))

    def _ended(self, name: str) -> None:
        self._running.pop(name, None)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A request ended, or a replica refused it: it is on no way any more."""
        self._on_the_way.pop(internal_request_id, None)

    def update_replicas(self, replicas: Iterable[RunningReplica]) -> None:
        """Forget what was known of replicas that are gone."""
        before, replicas = set(self.curr_replicas), list(replicas)
        super().update_replicas(replicas)
        for gone in before - {replica.replica_id for replica in replicas}:
            self._forget(gone)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget what lay there."""
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    def _forget(self, replica_id: ReplicaID) -> None:
        self._affinity.forget(replica_id)
        self._running = {request: replica for request, replica in self._running.items() if replica != replica_id}


def _marks(pending_request: PendingRequest) -> tuple[bytes, ...]:
    request = _forwarded(pending_request)
    return () if request is None else request.marks


def _package(pending_request: PendingRequest) -> str:
    """The package's name, as replicas report what they have loaded; "" for a probe.

    Not Ray's ``multiplexed_model_id``: a router that does not serve in order of arrival keeps every request, with its
    body, that carries one.
    """
    request = _forwarded(pending_request)
    return "" if request is None else request.package


def _forwarded(pending_request: PendingRequest) -> Forwarded | None:
    request = pending_request.args[0] if pending_request.args else None
    return request if isinstance(request, Forwarded) else None
