"""The simulated replica beside the engine's own scheduler, both in simulated time under the same users.

The scheduler is the real one: slots, prefix index, copies, moves. What the simulation leaves out may cost at most 15 %
of a figure. The rarest waits (TTFT p99) are not held to that: they hang on a few chances, and came out half as long at
times.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from bench.simulate.conversations import ConversationKind, Spread
from bench.simulate.fleet_run import Counts, FleetRun
from bench.simulate.policy import PolicyName
from bench.simulate.replica import EngineRules, Job, Replica
from bench.simulate.scenario import Scenario
from bench.simulate.step_times import StepTimes
from bench.simulate.summary import Outcome, outcome
from runtime.engine.config import EngineConfig
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.engine.step_plan import StepPlan
from runtime.session.session import SessionInfo
from tests.runtime.engine_driver import request

TIMES = StepTimes("made", (1.0, 16.0), (0.0, 1024.0), ((0.008, 0.010), (0.02, 0.04)), (0.0006, 0.001))


class SchedulerReplica:
    """The real scheduler behind the simulated replica's interface. A token is what its place in a conversation says."""

    def __init__(self, times: StepTimes, rules: EngineRules, opening: int) -> None:
        self._times, self._opening = times, opening
        self._scheduler = Scheduler(
            SessionInfo(
                "simulated",
                rules.slots,
                max_model_len=2048,
                vocab_size=2**20,
                kv_bytes_per_token=46_080,
                batch_invariant=True,
                prefill_tokens=rules.prefill_chunk_tokens,
                idle_prefill_tokens=rules.idle_prefill_chunk_tokens,
            ),
            EngineConfig(),
        )
        self._jobs: dict[str, Job] = {}
        self._plan: StepPlan | None = None
        self.next_s, self.busy_s, self._begun_s = math.inf, 0.0, 0.0

    @property
    def load(self) -> int:
        return len(self._jobs)

    def arrive(self, job: Job, now_s: float) -> None:
        name = f"{job.conversation}-{job.turn}"
        self._jobs[name] = job
        prompt = [self._token(job.conversation, place) for place in range(job.prompt)]
        self._scheduler.add(Sequence(request(name, prompt, max_tokens=job.answer), 0))
        if self._plan is None:
            self._begin(now_s)

    def advance(self, _end_s: float) -> list[Job]:
        plan, now_s = self._plan, self.next_s
        assert plan is not None
        self.busy_s += now_s - self._begun_s
        for copy in plan.copies:
            if isinstance(copy.cause, Sequence):
                copy.cause.num_computed = copy.cause.num_prefilled = copy.num_tokens
        ended = []
        for sequence in plan.decode:
            self._scheduler.commit_decode(sequence)
            ended += self._draw(sequence, now_s)
        for chunk in plan.prefills:
            self._scheduler.commit_prefill(chunk)
            if chunk.is_last:
                ended += self._draw(chunk.sequence, now_s)
        self._begin(now_s)
        return ended

    def _draw(self, sequence: Sequence, now_s: float) -> list[Job]:
        job = self._jobs[sequence.request.request_id]
        if not sequence.num_generated:
            job.first_token_s = now_s
        sequence.token_ids.append(self._token(job.conversation, len(sequence.token_ids)))
        if sequence.num_left:
            return []
        self._scheduler.finish(sequence)
        return [self._jobs.pop(sequence.request.request_id)]

    def _begin(self, now_s: float) -> None:
        self._begun_s = now_s
        self._plan = self._scheduler.plan() if self._scheduler.has_work else None
        if self._plan is None:
            self.next_s = math.inf
            return
        for chunk in self._plan.prefills:
            job = self._jobs[chunk.sequence.request.request_id]
            if not job.computed:
                job.cached = chunk.start
            job.computed = chunk.stop
        rows = self._plan.decode
        step_s = sum(self._times.prefill(chunk.stop - chunk.start, chunk.start) for chunk in self._plan.prefills)
        if rows:
            step_s += self._times.decode(len(rows), float(np.mean([row.num_computed for row in rows])))
        self.next_s = now_s + max(step_s, 1e-4)

    def _token(self, conversation: int, place: int) -> int:
        return place if place < self._opening else 1000 + (conversation * 7919 + place) % 1_000_003


class _Beside(FleetRun):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        opening = scenario.kind.opening_tokens
        real = [SchedulerReplica(scenario.times, scenario.rules, opening) for _ in range(scenario.replicas)]
        self._replicas = cast("list[Replica]", real)


def test_two_replicas_agree_with_the_real_scheduler_within_15_per_cent() -> None:
    kind = ConversationKind(question=Spread(60, 0.8), answer=Spread(25, 0.6), turns=4, think_s=0.5, opening_tokens=40)
    scenario = Scenario(
        times=TIMES, kind=kind, policy=PolicyName.AFFINITY, replicas=2, users=12, seconds=90, warmup_s=10,
        rules=EngineRules(slots=8), max_model_len=2048,
    )  # fmt: skip
    simulated, real = figures(scenario, FleetRun(scenario).run()), figures(scenario, _Beside(scenario).run())
    assert real.requests > 200
    for name in ("output_tps", "ttft_p50_ms", "hit_rate", "returned_share", "busy_share"):
        assert getattr(simulated, name) == pytest.approx(getattr(real, name), rel=0.15), name


def figures(scenario: Scenario, counts: Counts) -> Outcome:
    return outcome(scenario, counts, 1.0)
