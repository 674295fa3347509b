"""What is simulated: a fleet, who asks it, what its machines are, and what is lost. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.simulate.conversations import ConversationKind
from bench.simulate.policy import PolicyName
from bench.simulate.replica import EngineRules
from bench.simulate.step_times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Replica 0 is lost at ``at_s`` and back, empty, ``restart_s`` later. Its requests fail; their users ask again."""

    at_s: float
    restart_s: float
    retry_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRules:
    """Hosts of ``cores`` cores with ``replicas`` each, which use ``threads`` cores while they step.

    What carries a request to its replica takes ``request_s`` seconds of CPU time, what carries a token to its client
    ``token_s``, each on one thread of the replica's host. ``idle_cores`` is what all this takes while nobody asks.
    The fleet's one front has a core of its own, which every request takes for ``front_request_s`` before, and every
    token for ``front_token_s`` after that. ``cores`` may be infinite: then replicas share the front alone.
    """

    cores: float
    replicas: int
    threads: int
    request_s: float = 0.0
    token_s: float = 0.0
    idle_cores: float = 0.0
    front_request_s: float = 0.0
    front_token_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated. ``users`` are all of them, over all replicas; times are simulated seconds.

    After ``seconds`` it ends, or when as many ``requests`` as asked for have ended: then everybody begins at once, as a
    measured load does, and ``warmup_s`` must be 0.

    ``hop_s`` is what front and proxy add before a request reaches its replica and its first token the client, in all:
    waiting, and no work. ``host`` says that replicas share cores with each other and with what carries requests;
    without it each has its own.
    """

    times: StepTimes
    kind: ConversationKind
    policy: PolicyName
    replicas: int
    users: int
    seconds: float
    warmup_s: float
    rules: EngineRules = field(default_factory=EngineRules)
    max_model_len: int = 8192
    hop_s: float = 0.0
    loss: Loss | None = None
    host: HostRules | None = None
    requests: int | None = None
    seed: int = 0
