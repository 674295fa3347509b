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

import numpy as np

from runtime.engine.adapter_places import place_adapters
from runtime.engine.ahead import Ahead
from runtime.engine.call_health import BACKEND_FAILURES, CallHealth, said
from runtime.engine.drawing import ALONE_WAIT_S, Draft, Drawing
from runtime.engine.flight import Flight, NextRow, known
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_plan import PrefillChunk, StepPlan
from runtime.engine.step_report import StepResult, StepTimes, Totals
from runtime.errors import DeviceError
from runtime.events import TokenEvent
from runtime.sampling.row_rules import RowRules
from runtime.sampling.sampler import SamplerState
from runtime.session.selected import Selected, from_logits
from runtime.session.session import FloatArray, Int64Array, Session

SCORED_ROWS = 32
"""Most rows of logits that exist at once where a prompt is scored: 6 MB of a vocabulary of 49,152 tokens."""

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
        self.drawing = Drawing(scheduler, rules, clock)
        self.begin_ns = clock()

    def run(self) -> StepResult:
        """Plan and do it; with no work left nothing happens. Raises DeviceLost."""
        if self._ahead.flight is not None:
            return self._run_ahead(self._ahead.flight)
        self.drawing.draw_held()
        before_ns = self.drawing.spent_ns
        plan = self._scheduler.plan()
        planned = self._clock()
        admitted = self._admitted(planned)
        plan = self._copy(plan)
        place_adapters(self._session, self._scheduler.running)
        num_cached = self._note_prefix_hits(plan)
        for sequence in admitted:
            self.drawing.begin(sequence)
        copied = self._clock()
        num_decoded = self._decode(plan)
        num_prefilled = sum(self._prefill(chunk) for chunk in plan.prefills)
        if not plan.is_empty:
            self._totals.num_steps += 1
        else:
            self.drawing.wait_for_mask()
        self._count_tokens(num_cached + num_prefilled)
        run_ns = self._session.run_ns - self._run_before_ns
        times = StepTimes(
            plan_ns=planned - self.begin_ns - before_ns,
            copy_ns=copied - planned,
            bind_ns=self._clock() - copied - run_ns - (self.drawing.spent_ns - before_ns),
            run_ns=run_ns,
            sample_ns=self.drawing.sample_ns,
            commit_ns=self.drawing.commit_ns,
        )
        return StepResult(self.drawing.events, num_decoded, num_prefilled, times)

    def _run_ahead(self, flight: Flight) -> StepResult:
        """The step of a call that is on its way. ``run_ns`` is what the host still waited, beside launching."""
        counts = bool(flight.places())
        num_decoded = self._land(flight, self._ahead.following(flight))
        self._totals.num_steps += counts
        self._count_tokens(0)
        run_ns, spent_ns = self._session.run_ns - self._run_before_ns, self.drawing.spent_ns
        times = StepTimes(
            bind_ns=self._clock() - self.begin_ns - run_ns - spent_ns,
            run_ns=run_ns,
            sample_ns=self.drawing.sample_ns,
            commit_ns=self.drawing.commit_ns,
        )
        return StepResult(self.drawing.events, num_decoded, 0, times)

    def _count_tokens(self, num_read: int) -> None:
        """Note how many tokens of prompts and answers the step brought."""
        num_generated = sum(isinstance(event, TokenEvent) for event in self.drawing.events)
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

    def _decode(self, plan: StepPlan) -> int:
        """Run the plan's decode call; returns how many tokens were drawn."""
        if not plan.decode:
            return 0
        if len(plan.decode) == 1:
            sequence = plan.decode[0]
            draft = self.drawing.draft(sequence)
            if draft.token_ids:
                return self._verify(sequence, draft)
        asked = self.drawing.ask(plan.decode)
        rows = [known(sequence) for sequence in plan.decode if sequence.phase is not Phase.FINISHED]
        if not rows:
            return 0
        flight = Flight.of(rows, asked.states)
        following = self._ahead.following(flight)
        try:
            if not following:
                answer = self._session.decode_tokens(*flight.arrays(), asked.table)
            else:
                flight = self._ahead.launch(flight, asked.table)
        except BACKEND_FAILURES as error:
            self._fail(error, [row.sequence for row in rows])
            return 0
        return self._land(flight, following) if following else self._landed(flight, answer)

    def _land(self, flight: Flight, following: list[NextRow]) -> int:
        """Launch ``following`` behind a flight, wait for the flight, and draw its tokens; returns how many there were."""
        self._ahead.flight = behind = self._follow(following)
        try:
            if self._ahead.session is None:
                raise DeviceError("a call is on its way in a session that launches none")
            answer = self._ahead.session.wait()
        except BACKEND_FAILURES as error:
            self._fail(error, [flight.rows[place].sequence for place in flight.places()])
            return 0
        drawn = self._landed(flight, answer, behind)
        if behind is not None:
            self._ahead.note_void(behind.num_void())
        return drawn

    def _follow(self, rows: list[NextRow]) -> Flight | None:
        """Launch the call behind a flight that was not waited for, if there is to be one."""
        if not rows:
            return None
        asked = self.drawing.ask([row.sequence for row in rows], [row.unknown for row in rows])
        try:
            return self._ahead.launch(Flight.of(rows, asked.states), asked.table)
        except BACKEND_FAILURES as error:
            self._health.failed(error)
            self._ahead.refused(said(error))
            return None

    def _landed(self, flight: Flight, answer: Selected, following: Flight | None = None) -> int:
        """Commit the rows of a flight that count, given its answer; returns how many tokens were drawn."""
        self._health.worked()
        if following is not None:
            following.learn(flight, answer.chosen)
        places = flight.places()
        if not places:
            return 0
        sequences = [flight.rows[place].sequence for place in places]
        for sequence in sequences:
            self._scheduler.commit_decode(sequence)
        if flight.draw is not None:
            return self.drawing.take([flight.draw.drawn[place] for place in places], sequences)
        whole = len(places) == len(flight.rows)
        return self._draw(answer if whole else answer.at(places), sequences, [flight.states[place] for place in places])

    def _draw(self, answer: Selected, sequences: list[Sequence], asked: list[SamplerState | None]) -> int:
        """Take or draw a token for each row of an answer; returns how many there were."""
        try:
            return self.drawing.draw_answer(answer, sequences, asked)
        except BACKEND_FAILURES as error:  # of logits that had stayed on a device
            self._fail(error, sequences)
            return 0

    def _fail(self, error: Exception, sequences: list[Sequence]) -> None:
        """End the sequences of a call that failed. Raises DeviceLost if it was one too many."""
        self._health.failed(error)
        for sequence in sequences:
            if sequence.phase is not Phase.FINISHED:
                self.drawing.fail(sequence, said(error))

    def _verify(self, sequence: Sequence, draft: Draft) -> int:
        """Compute the last token and its draft in one call, and draw tokens as long as they meet the draft.

        Each token is drawn from the model's own distribution given what was drawn before it, exactly as without a
        draft; a draft that is met only saves the call. Returns how many tokens were drawn.
        """
        guesses = draft.token_ids
        token_ids = np.array([sequence.token_ids[-1], *guesses], np.int64)  # [1 + guesses]
        logits = self._appended(sequence, token_ids, sequence.num_computed, len(token_ids))
        if logits is None:
            return 0
        drawn = 0
        for row in range(len(token_ids)):
            self._scheduler.commit_decode(sequence)
            if not self.drawing.draw(logits[row : row + 1], [sequence], ALONE_WAIT_S):
                break  # the sequence ended, or is held with this row's logits
            drawn += 1
            if sequence.phase is Phase.FINISHED or row == len(guesses) or sequence.token_ids[-1] != guesses[row]:
                break
        accepted = max(0, drawn - 1)
        self._totals.drafted_tokens += len(guesses)
        self._totals.accepted_tokens += accepted
        if sequence.draft is not None and not draft.is_forced:
            sequence.draft.report(len(guesses), accepted)
        return drawn

    def _prefill(self, chunk: PrefillChunk) -> int:
        """Compute a chunk of a prompt; returns how many tokens were computed."""
        sequence = chunk.sequence
        if sequence.phase is Phase.FINISHED:
            return 0
        asked: SamplerState | None = None
        if sequence.is_scored:
            rows = self._scored(chunk)
            answer = None if rows is None else from_logits(rows)
        else:
            answer, asked = self._answered(chunk)
        if answer is None:
            return 0
        self._scheduler.commit_prefill(chunk)
        if chunk.is_last:
            try:
                self.drawing.first(answer, sequence, asked)
            except BACKEND_FAILURES as error:
                self._fail(error, [sequence])
        return chunk.stop - chunk.start

    def _answered(self, chunk: PrefillChunk) -> tuple[Selected | None, SamplerState | None]:
        """Compute a chunk whose tokens are not scored; no answer if that failed, which ends the sequence.

        The sampler by whose rules the session chose, if it was asked, comes with it.
        """
        sequence = chunk.sequence
        token_ids = np.array(sequence.token_ids[chunk.start : chunk.stop], np.int64)  # [T]
        if not chunk.is_last:
            rows = self._appended(sequence, token_ids, chunk.start, 0)
            return (None if rows is None else from_logits(rows)), None
        asked = self.drawing.ask([sequence])
        if sequence.phase is Phase.FINISHED:
            return None, None
        try:
            answer = self._session.prefill_token(sequence.slot, token_ids, chunk.start, asked.table)
        except BACKEND_FAILURES as error:
            self._fail(error, [sequence])
            return None, None
        self._health.worked()
        return answer, asked.states[0]

    def _scored(self, chunk: PrefillChunk) -> FloatArray | None:
        """Compute a chunk in pieces and score each at once; the last token's logits [1, V], None if that failed."""
        sequence = chunk.sequence
        rows: FloatArray | None = None
        for start, stop in chunk.pieces(SCORED_ROWS):
            token_ids = np.array(sequence.token_ids[start:stop], np.int64)  # [T]
            rows = self._appended(sequence, token_ids, start, stop - start)
            if rows is None or not self.drawing.score(rows, sequence, start):
                return None
        return None if rows is None else rows[-1:]

    def _appended(self, sequence: Sequence, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray | None:
        """Logits [num_logits, V] of a prefill call; None if the backend failed, which ends the sequence."""
        try:
            logits = self._session.prefill(sequence.slot, token_ids, start, num_logits)
        except BACKEND_FAILURES as error:
            self._fail(error, [sequence])
            return None
        self._health.worked()
        return logits

