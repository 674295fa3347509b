"""One step of continuous batching: plan, copy, decode, prefill, sample, commit. Owns the step's events and times.

A step is transactional per call: a failing decode call ends the sequences that decoded in it, a failing prefill call
ends its sequence, a row without a usable number ends that row; everything else goes on. A row whose constraint's mask
is not there yet keeps its logits, waits, and is sampled at the beginning of the first step that finds the mask.
Knows no queue and no text.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_plan import CopyKind, PrefillChunk, SlotCopy, StepPlan
from runtime.engine.step_report import StepResult, StepTimes, Totals
from runtime.errors import ConstraintFailed, DeviceError
from runtime.events import Event, FinishReason, TokenEvent
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.sampler import NoToken, Sampled, SamplerState, sample
from runtime.session.session import FloatArray, Int64Array, Session

_BACKEND_FAILURES = (DeviceError, MemoryError)
_ALONE_WAIT_S = 0.002
"""Wait for a mask when nothing else decodes: long for a mask (0.3 ms are rare), short for who comes or goes now."""


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
        self._sample_held()
        before_ns = self._sample_ns + self._commit_ns
        plan = self._scheduler.plan()
        planned = self._clock()
        admitted = self._note_admissions(plan, planned)
        for copy in plan.copies:
            self._copy(copy)
        for sequence in admitted:
            self._begin_constraint(sequence)
        copied = self._clock()
        num_decoded = self._decode(plan)
        num_prefilled = sum(self._prefill(chunk) for chunk in plan.prefills)
        if not plan.is_empty:
            self._totals.num_steps += 1
            self._totals.step_tokens.observe(num_decoded + num_prefilled)
        else:
            self._wait_for_mask()
        run_ns = self._session.run_ns - self._run_before_ns
        times = StepTimes(
            plan_ns=planned - self.begin_ns - before_ns,
            copy_ns=copied - planned,
            bind_ns=self._clock() - copied - run_ns - self._sample_ns - self._commit_ns + before_ns,
            run_ns=run_ns,
            sample_ns=self._sample_ns,
            commit_ns=self._commit_ns,
        )
        return StepResult(self.events, num_decoded, num_prefilled, times)

    def end(self, sequence: Sequence, reason: FinishReason, *, stop_token_id: int | None = None) -> None:
        """Take a sequence out of the scheduler and say so."""
        self._scheduler.finish(sequence)
        self.events.append(sequence.finished(reason, self._clock(), stop_token_id=stop_token_id))

    def _fail(self, sequence: Sequence, error: str, *, for_client: bool = False) -> None:
        """End a sequence with an error: the client's, or the backend's, after which its rows may be damaged."""
        self._scheduler.finish(sequence, rows_valid=for_client)
        ended = sequence.finished(FinishReason.ERROR, self._clock(), error=error, for_client=for_client)
        self.events.append(ended)

    def _note_admissions(self, plan: StepPlan, now_ns: int) -> list[Sequence]:
        """Returns the sequences that the plan admits."""
        admitted = [sequence for sequence in self._scheduler.running if not sequence.admitted_ns]
        for sequence in admitted:
            sequence.admitted_ns = now_ns
        for chunk in plan.prefills:
            if chunk.start == chunk.sequence.num_cached:
                self._totals.prefix_query_tokens += chunk.sequence.num_prompt
                self._totals.prefix_hit_tokens += chunk.sequence.num_cached
        return admitted

    def _copy(self, copy: SlotCopy) -> None:
        if copy.kind is CopyKind.COPY:
            self._session.copy_slot(copy.source, copy.target, copy.num_tokens, copy.start)
        else:
            self._session.swap_slots(copy.source, copy.target, copy.num_tokens)

    def _decode(self, plan: StepPlan) -> int:
        """Run the plan's decode call; returns how many tokens were drawn."""
        if not plan.decode:
            return 0
        sequences = [row.sequence for row in plan.decode]
        if len(sequences) == 1 and (sequence := sequences[0]) is not None:
            draft = self._draft(sequence)
            if sequence.phase is Phase.FINISHED:
                return 0
            if draft:
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
                self._fail(sequence, _said(error))
            return 0
        for sequence in filter(None, sequences):
            self._scheduler.commit_decode(sequence)
        return self._sample(logits, sequences)

    def _draft(self, sequence: Sequence) -> list[int]:
        """Guesses at the next tokens, as far as the sequence's constraint allows them. May end the sequence."""
        draft = sequence.proposed_draft()
        if not draft or sequence.matcher is None:
            return draft
        try:
            is_there = sequence.matcher.wait(_ALONE_WAIT_S)
            return draft[: sequence.matcher.num_allowed(draft)] if is_there else []
        except ConstraintFailed as error:
            self._fail(sequence, str(error), for_client=True)
            return []

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
            if not self._sample(logits[row : row + 1], [sequence], _ALONE_WAIT_S):
                break  # the sequence ended, or is held with this row's logits
            drawn += 1
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
            self._fail(sequence, _said(error))
            return None

    def _sample_held(self) -> None:
        """Draw the tokens whose masks have come since their logits were computed."""
        for sequence in [held for held in self._scheduler.running if held.is_held]:
            logits = sequence.held_logits
            if logits is not None:
                self._sample(logits[np.newaxis], [sequence])

    def _wait_for_mask(self) -> None:
        """Sleep a little if nothing but held sequences is left."""
        held = next((sequence for sequence in self._scheduler.running if sequence.is_held), None)
        if held is not None:
            self._allowed(held, _ALONE_WAIT_S)

    def _begin_constraint(self, sequence: Sequence) -> None:
        """Make the matcher of an admitted sequence: its first mask is computed while the model reads the prompt."""
        constraint = sequence.request.constraint
        if constraint is None:
            return
        try:
            sequence.matcher = constraint.matcher()
            sequence.matcher.start()
        except ConstraintFailed as error:
            self._fail(sequence, str(error), for_client=True)

    def _allowed(self, sequence: Sequence, wait_s: float) -> Allowed | None:
        """What a sequence's constraint allows next; None if that is not known in time, or failed and ended it."""
        matcher = sequence.matcher
        try:
            is_there = matcher is not None and matcher.wait(wait_s)
            return Allowed(matcher.mask(), matcher.may_end) if matcher is not None and is_there else None
        except ConstraintFailed as error:
            self._fail(sequence, str(error), for_client=True)
            return None

    def _sample(self, logits: FloatArray, sequences: list[Sequence | None], wait_s: float = 0.0) -> int:
        """Draw one token per row with a sequence, and commit it; returns how many were drawn.

        A row whose mask does not come within ``wait_s`` is held instead.
        """
        begin = self._clock()
        states: list[SamplerState | None] = [None] * len(sequences)
        allowed: list[Allowed | None] = [None] * len(sequences)
        for row, sequence in enumerate(sequences):
            if sequence is None:
                continue
            if sequence.request.constraint is not None:
                allowed[row] = self._allowed(sequence, wait_s)
                if allowed[row] is None:
                    self._hold(sequence, logits[row])
                    continue
            states[row] = sequence.sampler
        drawn = sample(logits, states, allowed)
        sampled = self._clock()
        count = 0
        for sequence, token in zip(sequences, drawn, strict=True):
            if sequence is None or token is None:
                continue
            if isinstance(token, NoToken):
                self._fail(sequence, token.error, for_client=token.for_client)
                continue
            try:
                self._commit(sequence, token, sampled)
            except ConstraintFailed as error:
                self._fail(sequence, str(error), for_client=True)
            count += 1
        self._sample_ns += sampled - begin
        self._commit_ns += self._clock() - sampled
        return count

    def _hold(self, sequence: Sequence, logits: FloatArray) -> None:
        """Let a sequence wait for its mask with a copy of its row [V], if it is not over and does not wait already."""
        if sequence.phase is not Phase.FINISHED and not sequence.is_held:
            sequence.held_logits = logits.copy()

    def _commit(self, sequence: Sequence, token: Sampled, now_ns: int) -> None:
        request, params, matcher = sequence.request, sequence.request.sampling, sequence.matcher
        token_id = token.token_id
        is_stop = token_id in params.stop_token_ids
        # Under a constraint an ignored end token comes only where nothing else may.
        is_end = is_stop or (token_id in request.eos_token_ids and (matcher is not None or not params.ignore_eos))
        ends: tuple[int, ...] = ()
        if matcher is not None and request.watch_ends:
            ends = (0,) if is_end else matcher.ends_within(token_id)
        sequence.held_logits = None
        sequence.token_ids.append(token_id)
        sequence.first_token_ns = sequence.first_token_ns or now_ns
        name, admitted_ns = request.request_id, sequence.admitted_ns
        self.events.append(TokenEvent(name, sequence.index, token_id, token.logprobs, admitted_ns, ends))
        if is_end:
            self.end(sequence, FinishReason.STOP, stop_token_id=token_id if is_stop else None)
        elif sequence.num_generated >= params.max_tokens:
            self.end(sequence, FinishReason.LENGTH)
        elif matcher is not None:
            matcher.commit(token_id)
            matcher.start()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
