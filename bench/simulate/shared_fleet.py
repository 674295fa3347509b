"""A fleet whose replicas share the cores of hosts with each other and with everything that carries requests and tokens.

A request is first carried to its replica, and each token to its client: CPU time of one thread, on the host of the
replica, where steps want the cores at the same time. All of them pass the one front, which has one core. Owns where the
work goes; the replica's rules and the users are those of a fleet that shares nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from bench.simulate.fleet_run import FleetRun
from bench.simulate.replica import Job
from bench.simulate.scenario import HostRules, Scenario
from bench.simulate.shared_host import SharedHost


class _Kind(Enum):
    AT_FRONT = "a request at the front"
    REQUEST = "a request on its way to the replica"
    STEP = "a step of the replica"
    WRITTEN = "a token on its way from the replica"
    FROM_FRONT = "a token at the front"


@dataclass(frozen=True, slots=True)
class _Piece:
    """``job`` is a request's or a token's; ``place`` a token's in its answer, from 1. ``threads`` take a core each."""

    kind: _Kind
    job: Job | None = None
    place: int = 0
    threads: int = 1


class SharedFleetRun(FleetRun):
    """A run of a scenario that has ``host`` rules. A step's end plans the next; no two pass as one."""

    def __init__(self, scenario: Scenario, host: HostRules) -> None:
        super().__init__(scenario)
        self._rules = host
        count = -(-scenario.replicas // host.replicas)
        self._hosts: list[SharedHost[_Piece]] = [SharedHost(host.cores - host.idle_cores) for _ in range(count)]
        self._hosts.append(SharedHost(1.0))
        self._front = count
        self._whole_step = _Piece(_Kind.STEP, threads=host.threads)
        self._underway: list[list[Job]] = [[] for _ in self._replicas]
        for replica in self._replicas:
            replica.one_by_one = True
        self._acts["host"] = self._host_ends

    def _send(self, job: Job, chosen: int, now_s: float) -> None:
        self._underway[chosen].append(job)
        self._add(self._front, now_s, chosen, self._rules.front_request_s, _Piece(_Kind.AT_FRONT, job))

    def _lost_jobs(self, number: int, now_s: float) -> list[Job]:
        """All that is not told to its end is lost, on its way or not."""
        self._replicas[number].fail()
        for host in (self._home(number), self._front):
            self._hosts[host].drop(now_s, number)
            self._watch(host)
        lost, self._underway[number] = self._underway[number], []
        return lost

    def _home(self, replica: int) -> int:
        return replica // self._rules.replicas

    def _add(self, host: int, now_s: float, replica: int, work_s: float, piece: _Piece) -> None:
        self._hosts[host].add(now_s, work_s, piece.threads, replica, piece)
        self._watch(host)

    def _watch(self, host: int) -> None:
        if self._hosts[host].next_s < math.inf:
            self._push(self._hosts[host].next_s, "host", host)

    def _host_ends(self, now_s: float, host: int) -> None:
        if self._hosts[host].next_s != now_s:
            return  # something was added since
        _, number, piece = self._hosts[host].end()
        self._go_further(piece, number, now_s)
        self._watch(host)

    def _go_further(self, piece: _Piece, number: int, now_s: float) -> None:
        """What comes after a piece of a replica's work."""
        rules, job = self._rules, piece.job
        if job is None:
            self._step_ends(number, now_s)
        elif piece.kind is _Kind.AT_FRONT:
            self._add(self._home(number), now_s, number, rules.request_s, _Piece(_Kind.REQUEST, job))
        elif piece.kind is _Kind.REQUEST:
            self._reaches(job, number, now_s)
        elif piece.kind is _Kind.WRITTEN:
            told = _Piece(_Kind.FROM_FRONT, job, piece.place)
            self._add(self._front, now_s, number, rules.front_token_s, told)
        else:
            self._told(job, piece.place, number, now_s)

    def _reaches(self, job: Job, number: int, now_s: float) -> None:
        was_idle = not self._replicas[number].step_s
        self._replicas[number].arrive(job, now_s)
        if was_idle:
            self._step_begins(number, now_s)

    def _step_begins(self, number: int, now_s: float) -> None:
        work_s = self._replicas[number].step_s
        if work_s:
            self._add(self._home(number), now_s, number, work_s, self._whole_step)

    def _step_ends(self, number: int, now_s: float) -> None:
        due = self._replicas[number].due()
        self._replicas[number].advance(now_s)
        for job in due:
            token = _Piece(_Kind.WRITTEN, job, job.generated)
            self._add(self._home(number), now_s, number, self._rules.token_s, token)
        self._step_begins(number, now_s)

    def _told(self, job: Job, place: int, number: int, now_s: float) -> None:
        if place == 1:
            job.first_token_s = now_s
        if place == job.answer:
            self._underway[number].remove(job)
            self._end(job, number, now_s)
