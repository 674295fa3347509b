"""The clients of one server: each one's limits, budgets and counts. Clients are known by name; keys are not known here.

Used on the event loop alone. Counts and budgets outlive a change of the limits, and a client whose name is gone stays
until the server ends: what it used can still be read, and its name cannot come back with a fresh budget.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from api.clients.budget import Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What one client may use; None is no limit. Tokens are those of prompts and answers together."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None


class Reason(StrEnum):
    """Why a request was refused by its client's limits."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENCY = "concurrency"
    TOO_LARGE = "too_large"


@dataclass(slots=True)
class Client:
    """One client. ``num_running`` are its requests that have begun and not ended, ``num_requests`` those that ended and
    were refused by no limit."""

    name: str
    clock: Callable[[], int]
    limits: ClientLimits = field(default_factory=ClientLimits)
    requests: Budget | None = None
    tokens: Budget | None = None
    num_running: int = 0
    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)

    def limit(self, limits: ClientLimits) -> None:
        """Hold the client to ``limits`` from now on. What it has spent of a budget stays spent."""
        now_ns = self.clock()
        self.limits = limits
        self.requests = _changed(self.requests, limits.requests_per_minute, now_ns)
        self.tokens = _changed(self.tokens, limits.tokens_per_minute, now_ns)


class Clients:
    """All clients that the server has had keys of. ``clock`` returns nanoseconds and never goes back."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._clients: dict[str, Client] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._clients.values()))

    def __getitem__(self, name: str) -> Client:
        return self._clients[name]

    def limit(self, limits: Mapping[str, ClientLimits]) -> None:
        """Hold each named client to its limits, and add those that are new."""
        for name, given in limits.items():
            self._clients.setdefault(name, Client(name, self._clock)).limit(given)


def _changed(budget: Budget | None, per_minute: int | None, now_ns: int) -> Budget | None:
    if per_minute is None:
        return None
    if budget is None:
        return Budget(per_minute, now_ns)
    budget.set_rate(per_minute, now_ns)
    return budget
