"""Replicas that share cores with what carries requests and tokens: by hand, and beside a fleet that shares nothing."""

from __future__ import annotations

import dataclasses
import math

import pytest

from bench.simulate.conversations import ConversationKind, Spread
from bench.simulate.fleet_simulation import simulate
from bench.simulate.policy import PolicyName
from bench.simulate.replica import EngineRules
from bench.simulate.scenario import HostRules, Loss, Scenario
from bench.simulate.shared_host import SharedHost
from bench.simulate.step_times import StepTimes
from bench.simulate.summary import outcome

# A decode step of any batch takes 1 s, a prompt token 10 ms: times that are added in the head.
TIMES = StepTimes("plain", (1.0, 2.0), (0.0, 100.0), ((1.0, 1.0), (1.0, 1.0)), (0.01, 0.01))
ONE = ConversationKind(
    question=Spread(30, 0),
    answer=Spread(4, 0),
    turns=1,
    think_s=0,
    opening_tokens=0,
    fixed_turns=True,
    fixed_think=True,
)
HOST = HostRules(cores=2, replicas=2, threads=1, request_s=0.5, token_s=0.2)


def scenario(**changes: object) -> Scenario:
    given = {
        "times": TIMES, "kind": ONE, "policy": PolicyName.AFFINITY, "replicas": 1, "users": 1, "seconds": math.inf,
        "warmup_s": 0.0, "requests": 1, "host": HOST, **changes,
    }  # fmt: skip
    return Scenario(**given)  # type: ignore[arg-type]


def ends(host: SharedHost[str]) -> list[tuple[float, int, str]]:
    found = []
    while host.next_s < math.inf:
        at_s, owner, what = host.end()
        found.append((round(at_s, 9), owner, what))
    return found


def test_threads_beyond_the_cores_share_them_evenly() -> None:
    host: SharedHost[str] = SharedHost(2.0)
    host.add(10.0, 3.0, 1, 0, "a")
    host.add(10.0, 1.0, 1, 1, "b")
    host.add(11.0, 1.0, 2, 2, "wide")  # "b" has just gone its way, and ends first
    # At 11: b 0 left, a 2 left, wide 1 left on 2 threads: after b, 3 threads on 2 cores go at 2/3.
    assert ends(host) == [(11.0, 1, "b"), (12.5, 2, "wide"), (13.5, 0, "a")]
    assert host.next_s == math.inf
    host.add(20.0, 1.0, 1, 0, "alone")
    assert host.next_s == pytest.approx(21.0)  # one thread takes no more than one core


def test_a_fraction_of_a_core_and_what_an_owner_leaves() -> None:
    host: SharedHost[str] = SharedHost(0.5)
    for owner in (0, 1, 0):
        host.add(0.0, 1.0, 1, owner, f"of {owner}")
    host.drop(3.0, 0)  # three threads on half a core: each has gone half its way
    assert ends(host) == [(4.0, 1, "of 1")]


def test_one_request_by_hand() -> None:
    counts = simulate(scenario())
    # 0.5 s to the replica, 0.3 s of prompt, 0.2 s to the client; three more tokens at 1.8, 2.8, 3.8 and their way.
    assert counts.ttft_s == [pytest.approx(1.0)]
    assert counts.ended_s == pytest.approx(4.0)
    assert counts.busy_s == pytest.approx(3.3)
    late = simulate(scenario(host=dataclasses.replace(HOST, cores=1)))
    # On one core a step takes 1.2 s beside the token before it.
    assert late.ttft_s == [pytest.approx(0.5 + 0.3 + 0.4)]
    assert late.ended_s == pytest.approx(0.8 + 3 * 1.2 + 0.2)
    loaded = simulate(scenario(host=dataclasses.replace(HOST, cores=1, idle_cores=0.5)))
    assert loaded.ttft_s == [pytest.approx(2 * (0.5 + 0.3 + 0.4))]
    wide = simulate(scenario(host=dataclasses.replace(HOST, cores=1, threads=3)))
    # Three threads of a step want one core: a prompt takes 0.9 s; beside a token four want it.
    assert wide.ttft_s == [pytest.approx(0.5 + 0.9 + 0.2 * 4)]


def test_all_pass_the_one_front() -> None:
    front = HostRules(cores=math.inf, replicas=1, threads=1, front_request_s=0.25, front_token_s=0.25)
    counts = simulate(scenario(host=front))
    assert counts.ttft_s == [pytest.approx(0.25 + 0.3 + 0.25)]
    assert counts.ended_s == pytest.approx(0.55 + 3.0 + 0.25)
    # A hundred replicas make some hundred tokens a second; the front has time for 3.2, each with its part of a request.
    many = scenario(replicas=100, users=100, requests=400, host=front)
    assert outcome(many, simulate(many), 1.0).output_tps == pytest.approx(1 / (0.25 + 0.25 / 4), rel=0.05)


def test_hosts_that_have_enough_change_nothing() -> None:
    kind = ConversationKind(question=Spread(30, 0.5), answer=Spread(8, 0.5), turns=3, think_s=3.0, opening_tokens=10)
    rules = EngineRules(slots=8)
    alone = scenario(kind=kind, replicas=3, users=9, seconds=400, requests=None, host=None, rules=rules, warmup_s=50.0)
    plenty = HostRules(cores=64, replicas=2, threads=1, request_s=0.0, token_s=0.0)
    apart, shared = simulate(alone), simulate(dataclasses.replace(alone, host=plenty))
    assert apart.requests > 100
    for name in ("requests", "prompt_tokens", "cached_tokens", "answer_tokens", "returned_turns"):
        assert getattr(shared, name) == pytest.approx(getattr(apart, name), rel=0.01), name
    assert sum(shared.ttft_s) == pytest.approx(sum(apart.ttft_s), rel=0.01)
    assert shared.busy_s == pytest.approx(apart.busy_s, rel=0.01)


def test_busy_cores_give_as_many_tokens_as_their_time_is_enough_for() -> None:
    # 8 users on 2 replicas and 2 cores: a step of 4 rows takes 1 s, so a token's share is 250 ms of steps, 300 ms of
    # way, and a quarter of a request's 100 ms and of a prompt's 300 ms.
    host = dataclasses.replace(HOST, request_s=0.1, token_s=0.3)
    busy = scenario(replicas=2, users=8, host=host, requests=400)
    found = outcome(busy, simulate(busy), 1.0)
    assert found.output_tps == pytest.approx(2 / (0.25 + 0.3 + 0.025 + 0.075), rel=0.1)
    two = dataclasses.replace(busy, replicas=4, users=16, requests=800)  # on two hosts
    assert outcome(two, simulate(two), 1.0).output_tps == pytest.approx(2 * found.output_tps, rel=0.05)


def test_a_lost_replica_loses_what_is_on_its_way_and_its_neighbour_goes_on() -> None:
    lossy = scenario(
        replicas=2, users=6, requests=None, seconds=300, loss=Loss(at_s=100.0, restart_s=30.0), kind=ONE,
        host=dataclasses.replace(HOST, request_s=4.0),
    )  # fmt: skip
    quiet = simulate(dataclasses.replace(lossy, loss=None))
    counts = simulate(lossy)
    assert 1 <= counts.failed <= 6
    assert counts.requests == pytest.approx(quiet.requests, rel=0.1)  # the neighbour has the cores to itself meanwhile
    assert counts.busy_s < 0.95 * quiet.busy_s
    assert counts.answer_tokens == 4 * counts.requests
    assert simulate(lossy) == counts
    front = HostRules(cores=math.inf, replicas=1, threads=1, front_request_s=2.0, front_token_s=0.1)
    at_front = dataclasses.replace(lossy, host=front)
    counts = simulate(at_front)
    assert 1 <= counts.failed <= 6
    # Six users ask, wait for their four tokens and ask again: nobody's lost request is answered as well.
    assert counts.requests <= simulate(dataclasses.replace(at_front, loss=None)).requests
