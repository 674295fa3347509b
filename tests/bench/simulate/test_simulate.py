"""The simulation of a fleet: what can be computed by hand, what must hold for any load, and its command."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import powertrain
from bench.errors import BenchError
from bench.in_process.engine_report import Breakdown, EngineReport, SpeedTest
from bench.metrics.metrics import Measurement
from bench.metrics.stats import Distribution, distribution
from bench.report.exports import report_json
from bench.report.results import Point, Report, RequestTable, RunResult
from bench.simulate.against import MeasuredLoad, agreement, measured_load
from bench.simulate.conversations import ConversationKind, Conversations, Spread
from bench.simulate.fleet_run import Counts
from bench.simulate.fleet_simulation import simulate
from bench.simulate.policy import ByAffinity, LeastLoaded, PolicyName, RoundRobin
from bench.simulate.replica import EngineRules, Job, Replica
from bench.simulate.scenario import Loss, Scenario
from bench.simulate.step_times import StepTimes, step_times
from bench.simulate.summary import outcome

# A decode step of any batch takes 1 s, a prompt token 10 ms: times that are added in the head.
TIMES = StepTimes("plain", (1.0, 2.0), (0.0, 100.0), ((1.0, 1.0), (1.0, 1.0)), (0.01, 0.01))
RULES = EngineRules(slots=2, prefill_chunk_tokens=20, idle_prefill_chunk_tokens=40)
KIND = ConversationKind(
    question=Spread(30, 0), answer=Spread(4, 0), turns=3, think_s=1.0, opening_tokens=10, fixed_turns=True
)


def job(conversation: int = 0, prompt: int = 60, answer: int = 3, arrival_s: float = 0.0) -> Job:
    return Job(conversation=conversation, user=0, turn=0, prompt=prompt, answer=answer, history=0, arrival_s=arrival_s)


def drained(replica: Replica) -> list[tuple[float, int]]:
    ended = []
    while replica.next_s < math.inf:
        at_s = replica.next_s
        ended += [(round(at_s, 6), one.conversation) for one in replica.advance(replica.next_s)]
    return ended


def test_one_request_by_hand() -> None:
    replica, one = Replica(TIMES, RULES, opening=0), job()
    replica.arrive(one, 5.0)
    assert replica.next_s == pytest.approx(5.4)  # 40 tokens at once while nobody decodes
    replica.advance(replica.next_s)
    assert replica.next_s == pytest.approx(5.6)  # the rest
    replica.advance(replica.next_s)
    assert one.first_token_s == pytest.approx(5.6)
    assert drained(replica) == [(7.6, 0)]  # two more tokens in two steps that pass as one
    assert replica.busy_s == pytest.approx(2.6)
    assert replica.load == 0


def test_a_newcomer_waits_for_the_running_step_only_and_prompts_are_cut_while_others_decode() -> None:
    replica, first, second = Replica(TIMES, RULES, opening=0), job(0, 40, 9), job(1, 40, 2)
    replica.arrive(first, 0.0)
    replica.advance(replica.next_s)  # 0.4: first token
    assert replica.next_s == pytest.approx(8.4)
    replica.arrive(second, 1.5)  # within the second step, which ends at 2.4
    assert replica.next_s == pytest.approx(2.4)
    replica.advance(replica.next_s)
    assert first.generated == 3
    assert replica.next_s == pytest.approx(2.4 + 1.0 + 0.2)  # a decode step and 20 tokens
    replica.advance(replica.next_s)
    replica.advance(replica.next_s)
    assert second.first_token_s == pytest.approx(4.8)
    assert first.generated == 5
    assert drained(replica) == [(5.8, 1), (8.8, 0)]


def test_slots_are_few_and_retained_rows_go_when_one_is_needed() -> None:
    replica = Replica(TIMES, RULES, opening=10)
    for number in range(3):
        replica.arrive(job(number, 40, 1), 0.0)
    assert [one for _, one in drained(replica)] == [0, 1, 2]  # the third waited for a slot
    assert list(replica.retained) == [1, 2]
    again = job(2, 60, 1)
    replica.arrive(again, 9.0)
    assert again.cached == 40  # prompt and answer, but for the last token's row
    stranger = job(9, 30, 1)
    replica.arrive(stranger, 9.0)
    drained(replica)
    assert stranger.cached == 10  # the opening alone
    assert job(1).cached == 0
    assert 1 not in replica.retained
    whole = job(2, 40, 1)
    replica.arrive(whole, 20.0)
    assert whole.cached == 39  # a prompt's last token is computed


def test_a_lost_replica_forgets_and_hands_back_what_it_had() -> None:
    replica = Replica(TIMES, RULES, opening=10)
    for number in range(3):
        replica.arrive(job(number), 0.0)
    assert sorted(one.conversation for one in replica.fail()) == [0, 1, 2]
    assert (replica.load, replica.next_s) == (0, math.inf)
    replica.arrive(job(0), 3.0)
    drained(replica)
    assert replica.fail() == []
    late = job(0)
    replica.arrive(late, 9.0)
    assert late.cached == 0  # neither its own rows nor the opening


@pytest.mark.parametrize("policy", list(PolicyName))
def test_every_policy_answers_everybody_and_the_same_seed_the_same(policy: PolicyName) -> None:
    scenario = Scenario(
        times=TIMES, kind=KIND, policy=policy, replicas=3, users=6, seconds=400, warmup_s=0, rules=RULES
    )
    first, second = simulate(scenario), simulate(scenario)
    assert first == second
    assert first.requests > 50
    assert first.failed == 0
    assert min(first.ttft_s) > 0
    assert first.answer_tokens == 4 * first.requests
    assert first.busy_s <= 3 * 400
    counted = simulate(dataclasses.replace(scenario, warmup_s=200, hop_s=0.5))
    assert counted.requests < 0.6 * first.requests
    assert counted.ttft_s[-1] == pytest.approx(first.ttft_s[-1] + 0.5)


def test_affinity_returns_and_the_others_do_not() -> None:
    def returned(policy: PolicyName) -> float:
        rules = EngineRules(slots=8)
        scenario = Scenario(
            times=TIMES, kind=KIND, policy=policy, replicas=4, users=8, seconds=600, warmup_s=60, rules=rules
        )
        counts = simulate(scenario)
        return counts.returned_turns / counts.later_turns

    assert returned(PolicyName.AFFINITY) == 1.0  # never busy, and room for every conversation
    assert returned(PolicyName.ROUND_ROBIN) < 0.5
    assert returned(PolicyName.LEAST_LOADED) < 0.6


def test_a_loss_fails_what_ran_there_and_its_users_ask_again() -> None:
    quiet = Scenario(
        times=TIMES,
        kind=dataclasses.replace(KIND, turns=30),
        policy=PolicyName.AFFINITY,
        replicas=2,
        users=8,
        seconds=300,
        warmup_s=0,
        rules=EngineRules(slots=16),
    )
    lossy = dataclasses.replace(quiet, loss=Loss(at_s=100.0, restart_s=50.0))
    before, after = simulate(quiet), simulate(lossy)
    assert 0 < after.failed <= 8
    assert after.returned_turns / after.later_turns < before.returned_turns / before.later_turns == 1.0
    effect = outcome(lossy, after, 1.0).loss
    assert effect is not None
    assert effect.ttft_p99_before_ms is not None
    assert effect.ttft_p99_after_ms is not None
    assert effect.ttft_p99_after_ms > effect.ttft_p99_before_ms
    alone = simulate(dataclasses.replace(lossy, replicas=1, users=2))
    assert alone.requests > 20  # its users waited for it


def test_policies_by_hand() -> None:
    up, loads = np.array([True, True, True]), np.array([2, 0, 1])
    assert [RoundRobin().choose(0, loads, np.array([False, True, True]))] == [1]
    turns = RoundRobin()
    assert [turns.choose(0, loads, up) for _ in range(4)] == [0, 1, 2, 0]
    assert LeastLoaded().choose(0, loads, np.array([True, False, True])) == 2
    policy = ByAffinity(3, busy_at=2)
    assert policy.choose(7, loads, up) == 1
    assert policy.choose(7, np.array([0, 1, 0]), up) == 1  # home
    assert policy.choose(7, np.array([0, 2, 0]), up) == 0  # home is busy; 0 and 2 hold nothing
    assert policy.choose(7, np.array([1, 0, 0]), up) == 0  # it has moved
    assert policy.choose(8, np.array([0, 0, 0]), up) == 1  # 0 holds one; what left 1 is not counted there
    policy.lost(0)
    assert policy.choose(7, np.array([0, 0, 0]), np.array([True, False, True])) == 0
    assert policy.choose(7, np.array([0, 0, 0]), np.array([False, True, True])) == 2  # its home is not up


def test_figures_by_hand() -> None:
    scenario = Scenario(
        times=TIMES, kind=KIND, policy=PolicyName.AFFINITY, replicas=2, users=1, seconds=110, warmup_s=10
    )
    counts = Counts(
        ttft_s=[1.0, 3.0],
        first_token_s=[20.0, 30.0],
        prompt_tokens=200,
        cached_tokens=50,
        answer_tokens=1000,
        later_turns=4,
        returned_turns=3,
        requests=2,
        busy_s=55.0,
    )
    found = outcome(scenario, counts, price_per_hour=0.9)
    assert (found.hit_rate, found.returned_share) == (0.25, 0.75)
    assert (found.ttft_p50_ms, found.output_tps, found.busy_share) == (2000.0, 10.0, 0.25)
    assert found.cost_per_million == pytest.approx(2 * 0.9 / (10 * 3600 / 1e6))  # 50 for each million


def report(*speeds: tuple[str, int, float]) -> EngineReport:
    tests = [SpeedTest(name, 1, 0, tokens, [1000.0 / step_ms], step_ms) for name, tokens, step_ms in speeds]
    return EngineReport("powertrain-bench-engine", 1, "m", "", 3, 0, 0, 0, 0.0, 0.0, tests, [], {})


MEASURED = report(
    ("pp512", 512, 2.0), ("pp128", 128, 4.0), ("pp512@d1000", 512, 3.0), ("tg8 b1", 8, 10.0), ("tg8 b4", 8, 16.0),
    ("tg8 b1@d1000", 8, 20.0), ("tg8 b4@d1000", 8, 46.0), ("tg8 b4@d9", 8, 1.0),
)  # fmt: skip


def test_times_between_and_beyond_what_was_measured() -> None:
    times = step_times([MEASURED])
    assert times.threads == 3
    assert times.depths == (0.0, 1000.0)  # depth 9 lacks a batch
    assert times.decode(1, 0) == pytest.approx(0.010)
    assert times.decode(2, 0) == pytest.approx(0.012)
    assert times.decode(4, 500) == pytest.approx(0.031)
    assert times.decode(7, 0) == pytest.approx(0.022)  # the last slope goes on
    assert times.decode(1, 2000) == pytest.approx(0.030)
    assert times.prefill(100, 0) == pytest.approx(100 * (0.002 + 0.001 * 50 / 1000))  # the longest prompt's, not 4 ms
    with pytest.raises(BenchError, match="common depth"):
        step_times([report(("tg8 b1", 8, 1.0), ("pp8@d5", 8, 1.0))])


def test_of_several_results_each_time_is_the_mean() -> None:
    later = report(("pp512", 512, 4.0), ("pp512@d1000", 512, 5.0), ("tg8 b1", 8, 14.0), ("tg8 b1@d1000", 8, 30.0))
    overhead = [Breakdown(1, "greedy", 9, {}, overhead_us, 0.0) for overhead_us in (100.0, 300.0)]
    times = step_times([MEASURED, msgspec.structs.replace(later, breakdowns=overhead)])
    assert (times.batches, times.depths) == ((1.0,), (0.0, 1000.0))  # 4 rows were measured only once
    assert times.decode_s[0] == pytest.approx((0.012, 0.025))
    assert times.prefill_s == pytest.approx((0.003, 0.004))
    assert times.step_overhead_s == pytest.approx(100e-6)  # 200 us, and none
    with pytest.raises(BenchError, match="of m, 2 threads and of m, 3 threads"):
        step_times([MEASURED, msgspec.structs.replace(later, threads=2)])


def test_conversations_have_the_means_that_they_state_and_fit() -> None:
    supply = Conversations(ConversationKind(), 1_000_000, seed=3)
    made = [supply.next() for _ in range(2000)]
    turns = [turn for conversation in made for turn in conversation]
    assert np.mean([len(conversation) for conversation in made]) == pytest.approx(5.75, rel=0.06)
    assert np.mean([turn.question for turn in turns]) == pytest.approx(161, rel=0.05)
    assert np.mean([turn.answer for turn in turns]) == pytest.approx(338, rel=0.05)
    tight = Conversations(ConversationKind(), 300, seed=3)
    assert all(
        64 + sum(turn.question + turn.answer for turn in conversation) <= 300
        for conversation in (tight.next() for _ in range(200))
        if conversation
    )


def _two(low: float, high: float) -> Distribution:
    found = distribution(np.array([low, high]))
    assert found is not None
    return found


def http_result(points: int = 1, shortest: int = 60, longest: int = 172, **settings: Any) -> Report:
    counted = {"input_tokens": _two(shortest, longest)}
    measured = Measurement(counted, {"output_tps": 9.0}, {"ok": 12}, {}, {})
    run = RunResult(0.0, measured, [], RequestTable([], [], [], [], [], []))
    point = Point("", "", "", "", 4, None, [run])
    given = {"prompt_tokens": "40", "output_tokens": "8", "turns": 3, "ignore_eos": True, **settings}
    return Report("powertrain-bench-http", 1, 1, "", 0.0, "", given, {}, [point] * points, [])


def test_a_measured_load_is_played_as_it_was() -> None:
    # The first prompt has 60 tokens, the third 172: each turn adds 56, 8 of them an answer, so 12 begin everything.
    load = measured_load(http_result(think_time=2.0))
    assert (load.users, load.requests) == (4, 12)
    turns = Conversations(load.kind, 8192, 0).next()
    assert [(turn.question, turn.answer, turn.think_s) for turn in turns] == [(48, 8, 2.0)] * 3
    assert load.kind.opening_tokens == 12
    assert load.figures == {"output_tps": 9.0}
    single = measured_load(http_result(turns=1, shortest=60, longest=61))
    assert (single.kind.question.mean, single.kind.opening_tokens) == (61, 0)
    scenario = Scenario(
        times=TIMES, kind=load.kind, policy=PolicyName.AFFINITY, replicas=1, users=load.users, seconds=math.inf,
        warmup_s=0, requests=load.requests,
    )  # fmt: skip
    counts = simulate(scenario)
    assert counts.requests == 12
    assert outcome(scenario, counts, 1.0).output_tps == pytest.approx(12 * 8 / counts.ended_s)
    # All begin at once: the first prompt's 60 tokens alone; then 128 tokens beside a decode step of 1 s, which is two
    # prompts without the 12 known ones and 32 tokens of the third, whose 16 others come a step later.
    assert counts.first_token_s[:4] == pytest.approx([0.6, 0.6 + 2.28, 0.6 + 2.28, 0.6 + 2.28 + 1.16])


@pytest.mark.parametrize(
    ("points", "settings", "words"),
    [
        (2, {}, "one point"),
        (1, {"ignore_eos": False}, "ignore-eos"),
        (1, {"trace": "x"}, "not simulated"),
        (1, {"prompt_tokens": "1-9"}, "lengths that vary"),
    ],
)
def test_what_cannot_be_simulated_alike_is_refused(points: int, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        measured_load(http_result(points, **settings))


def test_agreement_is_within_15_per_cent() -> None:
    scenario = Scenario(
        times=TIMES, kind=KIND, policy=PolicyName.AFFINITY, replicas=1, users=1, seconds=100, warmup_s=0
    )
    found = outcome(scenario, Counts(ttft_s=[1.0], first_token_s=[1.0], answer_tokens=1000), 1.0)
    near, far = MeasuredLoad(KIND, 1, 1, {"output_tps": 9.0}), MeasuredLoad(KIND, 1, 1, {"output_tps": 8.5})
    assert agreement(near, found)[1]
    assert not agreement(far, found)[1]
    assert not agreement(MeasuredLoad(KIND, 1, 1, {"ttft_p50_ms": 1200.0}), found)[1]


def test_the_command_prints_json_and_names_mistakes(tmp_path: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(powertrain.main, ["bench", "simulate", *words])

    done = run("--replicas", "1,2", "--policy", "affinity", "--seconds", "60", "--json", "--lose-at", "30")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["simulated"] is True
    assert [one["replicas"] for one in body["outcomes"]] == [1, 2]
    (measured := tmp_path / "report.json").write_bytes(report_json(http_result()))
    beside = run("--replicas", "1", "--seconds", "30", "--against", str(measured))
    assert (beside.exit_code, "Measured and simulated" in beside.stdout) == (3, True), beside.output
    table = run("--replicas", "2", "--policy", "affinity", "--seconds", "60", "--markdown").output
    assert "Simulated, not measured" in table
    assert "'afinity' is none of affinity" in run("--policy", "afinity").output
    assert "not before the end" in run("--lose-at", "300").output
    assert "is not a list of whole numbers" in run("--replicas", "0").output
    assert "cannot read missing.json" in run(str(tmp_path / "missing.json")).output


def test_the_command_lets_replicas_share_cores_and_the_front() -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(powertrain.main, ["bench", "simulate", *words])

    def played(*words: str) -> dict[str, float]:
        short = [
            "--seconds",
            "16",
            "--question-tokens",
            "20",
            "--answer-tokens",
            "10",
            "--think-s",
            "1",
            "--users",
            "4",
        ]
        done = run("--replicas", "4", "--policy", "affinity", *short, "--json", *words)
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout)["outcomes"][0])

    alone = played()["output_tps"]
    eight = ["--cores-per-host", "8", "--replicas-per-host", "4"]  # as many as their threads
    assert played(*eight)["output_tps"] == pytest.approx(alone, rel=0.05)
    assert played(*eight, "--cpu-idle-share", "7")["output_tps"] < 0.8 * alone
    assert played("--cores-per-host", "1", "--replicas-per-host", "4")["output_tps"] < 0.8 * alone
    assert played(*eight, "--cpu-ms-per-token", "90")["output_tps"] < 0.8 * alone
    assert played(*eight, "--cpu-ms-per-request", "5000")["ttft_p50_ms"] > 5000
    assert 30 < played("--front-ms-per-token", "20")["output_tps"] < 50 * 16 / 12  # some were told in the warm-up
    assert played("--front-ms-per-request", "1000")["requests"] <= 16
    assert "say with --cores-per-host" in run("--cpu-ms-per-token", "9").output
    assert "leaves nothing of --cores-per-host 8" in run(*eight, "--cpu-idle-share", "8").output
