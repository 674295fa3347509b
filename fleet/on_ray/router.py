"""Ray Serve's request router by conversation: ``fleet.routing`` told of Ray's replicas. Owns no rule.

It runs in the front's process, through which every request goes, so it counts loads itself instead of asking replicas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray.serve.request_router import (
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)
from runtime.defaults import DEFAULT_SLOTS

from fleet.relay.wire import Forwarded
from fleet.routing.affinity import Affinity, choose


class ConversationRouter(MultiplexMixin, RequestRouter):
    """Sends a conversation back to the replica that holds its cache, everything else to the least loaded one."""

    def initialize_state(self, busy_at: int = DEFAULT_SLOTS) -> None:
        """``busy_at`` is the number of requests from which a conversation may leave its replica."""
        self._busy_at = busy_at
        self._affinity: Affinity[ReplicaID] = Affinity()
        self._running: dict[str, ReplicaID] = {}
        self._loads: dict[ReplicaID, int] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replica that the request should have, then the others, should that one refuse."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        model = pending_request.metadata.multiplexed_model_id
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        eligible = self._with_model(model, candidate_replicas)
        loads = {replica.replica_id: self._loads.get(replica.replica_id, 0) for replica in eligible}
        chosen = choose(self._affinity, _marks(pending_request), loads, self._busy_at)
        if chosen is None:
            return [candidate_replicas]
        return [[by_id[chosen]], [replica for replica in candidate_replicas if replica.replica_id != chosen]]

    def _with_model(self, model: str, candidates: list[RunningReplica]) -> list[RunningReplica]:
        """Those that have the model loaded while one of them has room, else all: one of those loads it then."""
        having = [replica for replica in candidates if model in replica.multiplexed_model_ids]
        if any(self._loads.get(replica.replica_id, 0) < self._busy_at for replica in having):
            return having
        fewest = min((len(replica.multiplexed_model_ids) for replica in candidates), default=0)
        least = [replica for replica in candidates if len(replica.multiplexed_model_ids) == fewest]
        return candidates if having else least

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:  # noqa: ANN401 - ray's
        """The replica has accepted: it will hold the request's prompt."""
        self._running[pending_request.metadata.internal_request_id] = replica_id
        self._loads[replica_id] = self._loads.get(replica_id, 0) + 1
        self._affinity.note(_marks(pending_request), replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """A request ended, or was refused by a replica and never counted."""
        if self._running.get(internal_request_id) == replica_id:
            del self._running[internal_request_id]
            self._loads[replica_id] -= 1

    def update_replicas(self, replicas: Iterable[RunningReplica]) -> None:
        """Forget what was known of replicas that are gone."""
        replicas = list(replicas)
        super().update_replicas(replicas)
        alive = {replica.replica_id for replica in replicas}
        for gone in self._loads.keys() - alive:
            self._forget(gone)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget what lay there."""
        super().on_replica_actor_died(replica_id)
        self._forget(replica_id)

    def _forget(self, replica_id: ReplicaID) -> None:
        self._affinity.forget(replica_id)
        self._loads.pop(replica_id, None)
        self._running = {request: replica for request, replica in self._running.items() if replica != replica_id}


def _marks(pending_request: PendingRequest) -> tuple[bytes, ...]:
    request = pending_request.args[0] if pending_request.args else None
    return request.marks if isinstance(request, Forwarded) else ()
