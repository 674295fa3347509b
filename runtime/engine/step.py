"""One step of continuous batching: plan, copy, decode, prefill, and the drawing of tokens. Owns the step's times.

Where the decode call of a step was launched in the step before it, it launches the next one and waits for that
(``runtime.engine.ahead``), and there is nothing to plan.

A step is transactional per call: a failing decode call ends the sequences that decoded in it, a failing prefill call
ends its sequence, a failing copy is done without, a row without a usable number ends that row; everything else goes on.
Only what ``call_health`` takes for the end of the device leaves a step, as DeviceLost. Knows no queue and no text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from runtime.engine.adapter_places import place_adapters
from runtime.engine.ahead import Ahead
from runtime.engine.call_health import BACKEND_FAILURES, CallHealth, said
from runtime.engine.constrained import Constrained
from runtime.engine.decode_calls import DecodeCalls
from runtime.engine.drawing import Drawing
from runtime.engine.flight import Flight
from runtime.engine.prefill_calls import PrefillCalls
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.engine.session_calls import SessionCalls
from runtime.engine.step_events import StepEvents
from runtime.engine.step_plan import StepPlan
from runtime.engine.step_report import StepResult, StepTimes, Totals
from runtime.events import TokenEvent
from runtime.sampling.row_rules import RowRules
from runtime.session.session import Session

_LOG = logging.getLogger("powertrain.engine")


class Step:
    """The next step of a scheduler's sequences, to be run once. It begins when it is made.

    ``clock`` returns nanoseconds. ``totals``, ``health`` and ``ahead`` are the engine's, the step adds to them; so are
    ``rules``, which are None where the session chooses no tokens.
    """

    def __init__(
        self,
        session: Session,
        scheduler: Scheduler,
        rules: RowRules | None,
        *,
        totals: Totals,
        health: CallHealth,
        ahead: Ahead,
        clock: Callable[[], int],
    ) -> None:
        self._session = session
        self._scheduler = scheduler
        self._totals = totals
        self._health = health
        self._ahead = ahead
        self._clock = clock
        self._run_before_ns = session.run_ns
        self.told = StepEvents(scheduler, clock)
        self._constrained = Constrained(self.told, chooses=rules is not None)
        self._drawing = Drawing(scheduler, rules, self.told, self._constrained, clock)
        calls = SessionCalls(session, health, self.told)
        self._decodes = DecodeCalls(calls, self._drawing, self._constrained, scheduler, ahead=ahead, totals=totals)
        self._prefills = PrefillCalls(calls, self._drawing, scheduler)
        self.begin_ns = clock()

    def run(self) -> StepResult:
        """Plan and do it; with no work left nothing happens. Raises DeviceLost."""
        if self._ahead.flight is not None:
            return self._run_ahead(self._ahead.flight)
        self._drawing.draw_held()
        before_ns = self._drawing.spent_ns
        plan = self._scheduler.plan()
        planned = self._clock()
        admitted = self._admitted(planned)
        plan = self._copy(plan)
        place_adapters(self._session, self._scheduler.running)
        num_cached = self._note_prefix_hits(plan)
        for sequence in admitted:
            self._constrained.begin(sequence)
        copied = self._clock()
        num_decoded = self._decodes.decode(plan.decode) if plan.decode else 0
        num_prefilled = sum(self._prefills.compute(chunk) for chunk in plan.prefills)
        if not plan.is_empty:
            self._totals.num_steps += 1
        else:
            self._drawing.wait_for_mask()
        self._count_tokens(num_cached + num_prefilled)
        run_ns = self._session.run_ns - self._run_before_ns
        times = StepTimes(
            plan_ns=planned - self.begin_ns - before_ns,
            copy_ns=copied - planned,
            bind_ns=self._clock() - copied - run_ns - (self._drawing.spent_ns - before_ns),
            run_ns=run_ns,
            sample_ns=self._drawing.sample_ns,
            commit_ns=self._drawing.commit_ns,
        )
        return StepResult(self.told.events, num_decoded, num_prefilled, times)

    def _run_ahead(self, flight: Flight) -> StepResult:
        """The step of a call that is on its way. ``run_ns`` is what the host still waited, beside launching."""
        counts = bool(flight.places())
        num_decoded = self._decodes.land(flight)
        self._totals.num_steps += counts
        self._count_tokens(0)
        run_ns, spent_ns = self._session.run_ns - self._run_before_ns, self._drawing.spent_ns
        times = StepTimes(
            bind_ns=self._clock() - self.begin_ns - run_ns - spent_ns,
            run_ns=run_ns,
            sample_ns=self._drawing.sample_ns,
            commit_ns=self._drawing.commit_ns,
        )
        return StepResult(self.told.events, num_decoded, 0, times)

    def _count_tokens(self, num_read: int) -> None:
        """Note how many tokens of prompts and answers the step brought."""
        num_generated = sum(isinstance(event, TokenEvent) for event in self.told.events)
        if num_tokens := num_read + num_generated:
            self._totals.step_tokens.observe(num_tokens)

    def _admitted(self, now_ns: int) -> list[Sequence]:
        """The sequences that the plan admits."""
        admitted = [sequence for sequence in self._scheduler.running if not sequence.admitted_ns]
        for sequence in admitted:
            sequence.admitted_ns = now_ns
        return admitted

    def _copy(self, plan: StepPlan) -> StepPlan:
        """Run the plan's copies; returns what is left of it, without those that failed and what relied on them."""
        done = 0
        while done < len(plan.copies):
            copy = plan.copies[done]
            try:
                self._session.copy_slot(copy.source, copy.target, copy.num_tokens, copy.start)
            except BACKEND_FAILURES as error:
                self._health.failed(error)
                _LOG.warning("cache rows were not copied, which the step does without: %s", said(error))
                plan = self._scheduler.copy_failed(plan, copy)
            else:
                done += 1
        return plan

    def _note_prefix_hits(self, plan: StepPlan) -> int:
        """Returns how many prompt tokens the prompts that begin in this step found in the prefix cache."""
        begun = [chunk.sequence for chunk in plan.prefills if chunk.start == chunk.sequence.num_cached]
        num_cached = sum(sequence.num_cached for sequence in begun)
        self._totals.prefix_query_tokens += sum(sequence.num_prompt for sequence in begun)
        self._totals.prefix_hit_tokens += num_cached
        return num_cached
