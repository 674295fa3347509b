"""A fleet in simulated time: users ask, think and ask on; replicas step; one may be lost. Events, no ticks.

Closed loop: each of a fixed number of users has one conversation at a time, and begins the next when one ends. So load
cannot grow without bound, and a slow fleet is asked less, as people do. Numbers are counted from ``warmup_s`` on.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench.simulate.conversations import Conversations, Turn
from bench.simulate.policy import new_policy
from bench.simulate.replica import Job, Replica
from bench.simulate.scenario import Scenario


@dataclass(slots=True)
class Counts:
    """What a run counted, from its warm-up on. ``ttft_s`` and ``first_token_s`` belong together, in order of the ends;
    ``ended_s`` is when the last answer ended."""

    ttft_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    later_turns: int = 0
    returned_turns: int = 0
    requests: int = 0
    failed: int = 0
    ended_s: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True)
class _User:
    turns: list[Turn]
    conversation: int
    turn: int = 0
    history: int = 0


class FleetRun:
    """A run of a scenario whose replicas have cores of their own."""

    def __init__(self, scenario: Scenario) -> None:
        self._s = scenario
        self._counts = Counts()
        self._supply = Conversations(scenario.kind, scenario.max_model_len, scenario.seed)
        opening = scenario.kind.opening_tokens
        self._replicas = [Replica(scenario.times, scenario.rules, opening) for _ in range(scenario.replicas)]
        self._policy = new_policy(scenario.policy, scenario.replicas, scenario.rules.slots)
        self._loads = np.zeros(scenario.replicas, np.int64)
        self._up = np.ones(scenario.replicas, np.bool_)
        self._order = itertools.count()
        # (time, order, kind, who): a step's end counts only if its replica still means that moment.
        self._events: list[tuple[float, int, str, int]] = []
        self._users: list[_User] = []
        self._numbers = itertools.count()
        self._left = scenario.requests
        self._acts: dict[str, Callable[[float, int], None]] = {
            "ask": self._ask,
            "step": self._step,
            "lose": self._lose,
            "restart": self._restart,
        }

    def run(self) -> Counts:
        """To the scenario's end; once. The same scenario gives the same counts."""
        scenario = self._s
        for number in range(scenario.users):
            self._users.append(self._fresh())
            self._push(self._supply.think() if scenario.requests is None else 0.0, "ask", number)
        if scenario.loss is not None:
            self._push(scenario.loss.at_s, "lose", 0)
        while self._events and self._events[0][0] <= scenario.seconds:
            now_s, _, kind, who = heapq.heappop(self._events)
            self._acts[kind](now_s, who)
        self._counts.busy_s = sum(replica.busy_s for replica in self._replicas)
        return self._counts

    def _push(self, at_s: float, kind: str, who: int) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), kind, who))

    def _fresh(self) -> _User:
        return _User(self._supply.next(), next(self._numbers))

    def _ask(self, now_s: float, number: int) -> None:
        user, opening = self._users[number], self._s.kind.opening_tokens
        if not self._up.any():
            self._push(now_s + 1.0, "ask", number)
            return
        if self._left is not None:
            if not self._left:
                return
            self._left -= 1
        turn = user.turns[user.turn]
        job = Job(
            conversation=user.conversation,
            user=number,
            turn=user.turn,
            prompt=(user.history or opening) + turn.question,
            answer=turn.answer,
            history=user.history,
            arrival_s=now_s,
        )
        chosen = self._policy.choose(user.conversation, self._loads, self._up)
        self._loads[chosen] += 1
        self._send(job, chosen, now_s)

    def _send(self, job: Job, chosen: int, now_s: float) -> None:
        """Bring a request to the replica that was chosen."""
        replica = self._replicas[chosen]
        before_s = replica.next_s
        replica.arrive(job, now_s)
        if replica.next_s != before_s:
            self._push(replica.next_s, "step", chosen)

    def _step(self, now_s: float, number: int) -> None:
        replica = self._replicas[number]
        if replica.next_s != now_s:
            return  # planned anew since
        for job in replica.advance(now_s):
            self._end(job, number, now_s)
        if replica.load:
            self._push(replica.next_s, "step", number)

    def _end(self, job: Job, number: int, now_s: float) -> None:
        """A request of a replica has ended, for its client as well."""
        self._loads[number] -= 1
        self._note(job, now_s)
        self._go_on(job, now_s)

    def _note(self, job: Job, now_s: float) -> None:
        if now_s < self._s.warmup_s:
            return
        counts = self._counts
        counts.requests += 1
        counts.ended_s = now_s
        counts.ttft_s.append(job.first_token_s - job.arrival_s + self._s.hop_s)
        counts.first_token_s.append(job.first_token_s)
        counts.prompt_tokens += job.prompt
        counts.cached_tokens += job.cached
        counts.answer_tokens += job.answer
        if job.turn:
            counts.later_turns += 1
            counts.returned_turns += job.cached >= job.history - 1

    def _go_on(self, job: Job, now_s: float) -> None:
        user = self._users[job.user]
        user.turn += 1
        user.history = job.prompt + job.answer
        if user.turn == len(user.turns):
            user = self._users[job.user] = self._fresh()
        self._push(now_s + user.turns[user.turn].think_s, "ask", job.user)

    def _lose(self, now_s: float, number: int) -> None:
        loss = self._s.loss
        if loss is None:
            return
        self._up[number] = False
        self._push(now_s + loss.restart_s, "restart", number)
        self._policy.lost(number)
        for job in self._lost_jobs(number, now_s):
            self._counts.failed += 1
            self._push(now_s + loss.retry_s, "ask", job.user)
        self._loads[number] = 0

    def _lost_jobs(self, number: int, now_s: float) -> list[Job]:
        """What a replica loses when it is lost."""
        return self._replicas[number].fail()

    def _restart(self, _now_s: float, number: int) -> None:
        self._up[number] = True
