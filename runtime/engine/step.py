"""One step of continuous batching: plan, copy, decode, prefill, sample, commit. Owns the step's events and times.

A step is transactional per call: a failing decode call ends the sequences that decoded in it, a failing prefill call
ends its sequence, a row without a usable number ends that row; everything else goes on. Knows no queue and no text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_plan import PrefillChunk, StepPlan
from runtime.engine.step_report import StepResult, StepTimes, Totals
from runtime.errors import DeviceError
from runtime.events import Event, FinishReason, TokenEvent
from runtime.sampling.sampler import Sampled, sample
from runtime.session.session import FloatArray, Int64Array, Session

_BACKEND_FAILURES = (DeviceError, MemoryError)


class Step:
    """The next step of a scheduler's sequences, to be run once. It begins when it is made.

    ``clock`` returns nanoseconds. ``totals`` are the engine's; the step adds to them.
    """

    def __init__(self, session: Session, scheduler: Scheduler, totals: Totals, clock: Callable[[], int]) -> None:
        self._session = session
        self._scheduler = scheduler
        self._totals = totals
        self._clock = clock
        self._run_before_ns = session.run_ns
        self._sample_ns = 0
        self._commit_ns = 0
        self.events: list[Event] = []
        self.begin_ns = clock()

    def run(self) -> StepResult:
        """Plan and do it; with no work left nothing happens."""
        plan = self._scheduler.plan()
        planned = self._clock()
        self._note_admissions(plan, planned)
        for copy in plan.copies:
            self._session.copy_slot(copy.source, copy.target, copy.num_tokens, copy.start)
        copied = self._clock()
        num_decoded = self._decode(plan)
        num_prefilled = sum(self._prefill(chunk) for chunk in plan.prefills)
        if not plan.is_empty:
            self._totals.num_steps += 1
            self._totals.step_tokens.observe(num_decoded + num_prefilled)
        run_ns = self._session.run_ns - self._run_before_ns
        times = StepTimes(
            plan_ns=planned - self.begin_ns,
            copy_ns=copied - planned,
            bind_ns=self._clock() - copied - run_ns - self._sample_ns - self._commit_ns,
            run_ns=run_ns,
            sample_ns=self._sample_ns,
            commit_ns=self._commit_ns,
        )
        return StepResult(self.events, num_decoded, num_prefilled, times)

    def end(
        self, sequence: Sequence, reason: FinishReason, *, stop_token_id: int | None = None, error: str | None = None
    ) -> None:
        """Take a sequence out of the scheduler and say so."""
        self._scheduler.finish(sequence, rows_valid=error is None)
        self.events.append(sequence.finished(reason, self._clock(), stop_token_id=stop_token_id, error=error))

    def _note_admissions(self, plan: StepPlan, now_ns: int) -> None:
        for sequence in self._scheduler.running:
            sequence.admitted_ns = sequence.admitted_ns or now_ns
        for chunk in plan.prefills:
            if chunk.start == chunk.sequence.num_cached:
                self._totals.prefix_query_tokens += chunk.sequence.num_prompt
                self._totals.prefix_hit_tokens += chunk.sequence.num_cached

    def _decode(self, plan: StepPlan) -> int:
        """Run the plan's decode call; returns how many tokens were drawn."""
        if not plan.decode:
            return 0
        sequences = [row.sequence for row in plan.decode]
        if len(sequences) == 1 and (sequence := sequences[0]) is not None and (draft := sequence.proposed_draft()):
            return self._verify(sequence, draft)
        token_ids = np.zeros(len(sequences), np.int64)  # [B]; idle rows may hold any token
        positions = np.zeros(len(sequences), np.int64)  # [B]
        for row, planned in enumerate(plan.decode):
            positions[row] = planned.position
            if planned.sequence is not None:
                token_ids[row] = planned.sequence.token_ids[-1]
        try:
            logits = self._session.decode(plan.first_slot, token_ids, positions)
        except _BACKEND_FAILURES as error:
            for sequence in filter(None, sequences):
                self._fail(sequence, error)
            return 0
        for sequence in filter(None, sequences):
            self._scheduler.commit_decode(sequence)
        return self._sample(logits, sequences)

    def _verify(self, sequence: Sequence, draft: list[int]) -> int:
        """Compute the last token and its draft in one call, and draw tokens as long as they meet the draft.

        Each token is drawn from the model's own distribution given what was drawn before it, exactly as without a
        draft; a draft that is met only saves the call. Returns how many tokens were drawn.
        """
        token_ids = np.array([sequence.token_ids[-1], *draft], np.int64)  # [1 + draft]
        logits = self._appended(sequence, token_ids, sequence.num_computed, len(token_ids))
        if logits is None:
            return 0
        drawn = 0
        for row in range(len(token_ids)):
            self._scheduler.commit_decode(sequence)
            drawn += self._sample(logits[row : row + 1], [sequence])
            if sequence.phase is Phase.FINISHED or row == len(draft) or sequence.token_ids[-1] != draft[row]:
                break
        accepted = max(0, drawn - 1)
        self._totals.drafted_tokens += len(draft)
        self._totals.accepted_tokens += accepted
        if sequence.draft is not None:
            sequence.draft.report(len(draft), accepted)
        return drawn

    def _prefill(self, chunk: PrefillChunk) -> int:
        """Compute a chunk of a prompt; returns how many tokens were computed."""
        sequence = chunk.sequence
        if sequence.phase is Phase.FINISHED:
            return 0
        token_ids = np.array(sequence.token_ids[chunk.start : chunk.stop], np.int64)  # [T]
        logits = self._appended(sequence, token_ids, chunk.start, 1 if chunk.is_last else 0)
        if logits is None:
            return 0
        self._scheduler.commit_prefill(chunk)
        if chunk.is_last:
            self._sample(logits, [sequence])
        return chunk.stop - chunk.start

    def _appended(self, sequence: Sequence, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray | None:
        """Logits [num_logits, V] of a prefill call; None if the backend failed, which ends the sequence."""
        try:
            return self._session.prefill(sequence.slot, token_ids, start, num_logits)
        except _BACKEND_FAILURES as error:
            self._fail(sequence, error)
            return None

    def _sample(self, logits: FloatArray, sequences: list[Sequence | None]) -> int:
        """Draw one token per row with a sequence, and commit it; returns how many were drawn."""
        begin = self._clock()
        drawn = sample(logits, [None if sequence is None else sequence.sampler for sequence in sequences])
        sampled = self._clock()
        count = 0
        for sequence, token in zip(sequences, drawn, strict=True):
            if sequence is None:
                continue
            if token is None:
                self.end(sequence, FinishReason.ERROR, error="the model produced no usable number")
                continue
            self._commit(sequence, token, sampled)
            count += 1
        self._sample_ns += sampled - begin
        self._commit_ns += self._clock() - sampled
        return count

    def _commit(self, sequence: Sequence, token: Sampled, now_ns: int) -> None:
        request, params = sequence.request, sequence.request.sampling
        sequence.token_ids.append(token.token_id)
        sequence.first_token_ns = sequence.first_token_ns or now_ns
        name, admitted_ns = request.request_id, sequence.admitted_ns
        self.events.append(TokenEvent(name, sequence.index, token.token_id, token.logprobs, admitted_ns))
        if token.token_id in params.stop_token_ids:
            self.end(sequence, FinishReason.STOP, stop_token_id=token.token_id)
        elif token.token_id in request.eos_token_ids and not params.ignore_eos:
            self.end(sequence, FinishReason.STOP)
        elif sequence.num_generated >= params.max_tokens:
            self.end(sequence, FinishReason.LENGTH)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self.end(sequence, FinishReason.ERROR, error=f"{type(error).__name__}: {error}")
