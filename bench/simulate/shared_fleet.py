"""A fleet whose replicas share the cores of hosts with each other and with everything that carries requests and tokens.

A request is first carried to its replica (proxy, front, the replica's own reading), and each token to its client: CPU
time of one thread, on the host of the replica. Steps want the cores at the same time. Owns where the work goes; the
replica's rules and the users are those of a fleet that shares nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bench.simulate.fleet_run import FleetRun
from bench.simulate.replica import Job
from bench.simulate.scenario import HostRules, Scenario
from bench.simulate.shared_host import SharedHost


class _Kind(Enum):
    REQUEST = "a request on its way to the replica"
    STEP = "a step of the replica"
    TOLD = "a token on its way to its client"


@dataclass(frozen=True, slots=True)
class _Piece:
    """``job`` is a request's or a token's; ``place`` a token's in its answer, from 1."""

    kind: _Kind
    job: Job | None = None
    place: int = 0


class SharedFleetRun(FleetRun):
    """A run of a scenario that has ``host`` rules. A step's end plans the next; no two pass as one."""

    def __init__(self, scenario: Scenario, host: HostRules) -> None:
        super().__init__(scenario)
        self._rules = host
        count = -(-scenario.replicas // host.replicas)
        self._hosts: list[SharedHost[_Piece]] = [SharedHost(host.cores - host.idle_cores) for _ in range(count)]
        self._underway: list[list[Job]] = [[] for _ in self._replicas]
        for replica in self._replicas:
            replica.one_by_one = True
        self._acts["host"] = self._host_ends

    def _send(self, job: Job, chosen: int, now_s: float) -> None:
        self._underway[chosen].append(job)
        self._add(now_s, chosen, self._rules.request_s, _Piece(_Kind.REQUEST, job))

    def _lost_jobs(self, number: int, now_s: float) -> list[Job]:
        """All that is not told to its end is lost, on its way or not."""
        self._replicas[number].fail()
        self._hosts[number // self._rules.replicas].drop(now_s, number)
        self._watch(number // self._rules.replicas)
        lost, self._underway[number] = self._underway[number], []
        return lost

    def _add(self, now_s: float, replica: int, work_s: float, piece: _Piece, threads: int = 1) -> None:
        host = replica // self._rules.replicas
        self._hosts[host].add(now_s, work_s, threads, replica, piece)
        self._watch(host)

    def _watch(self, host: int) -> None:
        if self._hosts[host].next_s < float("inf"):
            self._push(self._hosts[host].next_s, "host", host)

    def _host_ends(self, now_s: float, host: int) -> None:
        if self._hosts[host].next_s != now_s:
            return  # something was added since
        _, number, piece = self._hosts[host].end()
        if piece.job is None:
            self._step_ends(number, now_s)
        elif piece.kind is _Kind.REQUEST:
            self._reaches(piece.job, number, now_s)
        else:
            self._told(piece.job, piece.place, number, now_s)
        self._watch(host)

    def _reaches(self, job: Job, number: int, now_s: float) -> None:
        was_idle = not self._replicas[number].step_s
        self._replicas[number].arrive(job, now_s)
        if was_idle:
            self._step_begins(number, now_s)

    def _step_begins(self, number: int, now_s: float) -> None:
        work_s = self._replicas[number].step_s
        if work_s:
            self._add(now_s, number, work_s, _Piece(_Kind.STEP), self._rules.threads)

    def _step_ends(self, number: int, now_s: float) -> None:
        due = self._replicas[number].due()
        self._replicas[number].advance(now_s)
        for job in due:
            self._add(now_s, number, self._rules.token_s, _Piece(_Kind.TOLD, job, job.generated))
        self._step_begins(number, now_s)

    def _told(self, job: Job, place: int, number: int, now_s: float) -> None:
        if place == 1:
            job.first_token_s = now_s
        if place == job.answer:
            self._underway[number].remove(job)
            self._end(job, number, now_s)
