"""One step of continuous batching: plan, run, sample, commit. Single-threaded and clock-injected; no queue, no text.

The engine owns the scheduler, the session and every choice's sampler state. A step is transactional per call: a
failing decode call ends the sequences that decoded in it, a failing prefill call ends its sequence, a row without a
usable number ends that row; everything else goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from runtime.engine.config import EngineConfig
from runtime.engine.ngram_draft import NgramDraft
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_plan import CopyKind, PrefillChunk, SlotCopy, StepPlan
from runtime.engine.step_report import EngineStats, StepResult, StepTimes, StepTokens
from runtime.events import Event, FinishEvent, FinishReason, Timing, TokenEvent
from runtime.request import Request, SamplingParams
from runtime.sampling.sampler import Sampled, SamplerState, sample
from runtime.session.device import DeviceError
from runtime.session.session import FloatArray, Session

_WARM_UP_PROMPT_TOKENS = 8
_WARM_UP_NEW_TOKENS = 3
_NS_PER_S = 1_000_000_000
_LONG_STEP_NS = _NS_PER_S


class Engine:
    """Runs sequences over a session. ``clock`` returns nanoseconds."""

    def __init__(self, session: Session, config: EngineConfig, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.session = session
        self._scheduler = Scheduler(session.info.num_slots, config, session.info.kv_bytes_per_token)
        self._config = config
        self._clock = clock
        self._states: dict[Sequence, SamplerState] = {}
        self._drafts: dict[Sequence, NgramDraft] = {}
        self._awake_ns = 0
        self._last_look_ns = clock()
        self._order = 0
        self._num_steps = 0
        self._prefix_query_tokens = 0
        self._prefix_hit_tokens = 0
        self._drafted_tokens = 0
        self._accepted_tokens = 0
        self._step_tokens = StepTokens()

    @property
    def has_work(self) -> bool:
        """True while any choice is unfinished."""
        return self._scheduler.has_work

    def stats(self) -> EngineStats:
        """Counts as of now."""
        info = self.session.info
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            num_slots=info.num_slots,
            kv_used_tokens=sum(sequence.num_computed for sequence in self._scheduler.running),
            kv_capacity_tokens=info.num_slots * info.max_model_len,
            num_steps=self._num_steps,
            prefix_query_tokens=self._prefix_query_tokens,
            prefix_hit_tokens=self._prefix_hit_tokens,
            drafted_tokens=self._drafted_tokens,
            accepted_tokens=self._accepted_tokens,
            step_tokens=self._step_tokens.snapshot(),
        )

    def add(self, request: Request) -> None:
        """Queue every choice of a request."""
        self._order += 1
        queued_ns = self._awake() - self._bounded(self._clock() - request.arrival_ns)
        for index in range(request.n):
            sequence = Sequence(request, index, self._order, queued_ns)
            self._states[sequence] = SamplerState(request, index)
            self._scheduler.add(sequence)

    def live_request_ids(self) -> list[str]:
        """Ids of the requests that have unfinished choices."""
        return list(dict.fromkeys(sequence.request.request_id for sequence in self._scheduler.alive()))

    def abort(self, request_id: str, index: int | None = None) -> list[Event]:
        """Drop one choice or all that is left of a request; they end with ABORT. Unknown ids are ignored."""
        events: list[Event] = []
        for sequence in self._scheduler.of_request(request_id):
            if index is None or sequence.index == index:
                self._finish(sequence, FinishReason.ABORT, events)
        return events

    def fail_all(self, error: str) -> list[Event]:
        """End every live choice with ERROR: the engine cannot go on."""
        events: list[Event] = []
        for sequence in list(self._scheduler.alive()):
            self._finish(sequence, FinishReason.ERROR, events, error=error)
        return events

    def warm_up(self) -> None:
        """Generate a few tokens through the whole path; raises what the session raises, or RuntimeError."""
        prompt = self._config.warm_up_ids or tuple(range(_WARM_UP_PROMPT_TOKENS))
        request = Request(
            request_id="warm-up",
            prompt_ids=prompt[: self.session.info.max_model_len - _WARM_UP_NEW_TOKENS],
            sampling=SamplingParams(max_tokens=_WARM_UP_NEW_TOKENS, temperature=0.0),
            eos_token_ids=frozenset(),
            arrival_ns=self._clock(),
        )
        self.add(request)
        while self.has_work:
            for event in self.step().events:
                if isinstance(event, FinishEvent) and event.error is not None:
                    raise RuntimeError(event.error)
        self._num_steps = self._prefix_query_tokens = 0
        self._step_tokens = StepTokens()

    def step(self) -> StepResult:
        """Run the next step; with no work left it does nothing."""
        events: list[Event] = []
        begin, run_before = self._clock(), self.session.run_ns
        self._expire(events)
        plan = self._scheduler.plan()
        planned = self._clock()
        self._note_admissions(plan, planned)
        for copy in plan.copies:
            self._copy(copy)
        copied = self._clock()
        spent = _Spent()
        num_decoded = self._decode(plan, events, spent)
        num_prefilled = sum(self._prefill(chunk, events, spent) for chunk in plan.prefills)
        if not plan.is_empty:
            self._num_steps += 1
            self._step_tokens.observe(num_decoded + num_prefilled)
        run_ns = self.session.run_ns - run_before
        rest = self._clock() - copied - run_ns - spent.sample_ns - spent.commit_ns
        times = StepTimes(planned - begin, copied - planned, rest, run_ns, spent.sample_ns, spent.commit_ns)
        return StepResult(events, num_decoded, num_prefilled, times)

    def _expire(self, events: list[Event]) -> None:
        limit_s = self._config.max_queue_time_s
        if limit_s is None:
            return
        for sequence in self._scheduler.waiting_since_before(self._awake() - int(limit_s * _NS_PER_S)):
            self._finish(sequence, FinishReason.EXPIRED, events)

    def _awake(self) -> int:
        """Nanoseconds for which this engine was at work or waiting for it, as far as they count for the queue."""
        now_ns = self._clock()
        self._awake_ns += self._bounded(now_ns - self._last_look_ns)
        self._last_look_ns = now_ns
        return self._awake_ns

    def _bounded(self, elapsed_ns: int) -> int:
        """A time between two looks, at most a quarter of the queue's limit or what a long step takes.

        A longer gap is a process that was stopped, or a machine that slept: nobody waited for a place meanwhile, and
        whoever waits must not be given up for it.
        """
        limit_ns = int((self._config.max_queue_time_s or 0) * _NS_PER_S)
        return min(elapsed_ns, max(limit_ns // 4, _LONG_STEP_NS))

    def _note_admissions(self, plan: StepPlan, now_ns: int) -> None:
        for sequence in self._scheduler.running:
            sequence.admitted_ns = sequence.admitted_ns or now_ns
        for chunk in plan.prefills:
            if chunk.start == chunk.sequence.num_cached:
                self._prefix_query_tokens += chunk.sequence.num_prompt
                self._prefix_hit_tokens += chunk.sequence.num_cached

    def _copy(self, copy: SlotCopy) -> None:
        if copy.kind is CopyKind.COPY:
            self.session.copy_slot(copy.source, copy.target, copy.num_tokens, copy.start)
        else:
            self.session.swap_slots(copy.source, copy.target, copy.num_tokens)

    def _decode(self, plan: StepPlan, events: list[Event], spent: _Spent) -> int:
        if not plan.decode:
            return 0
        if len(plan.decode) == 1 and (sequence := plan.decode[0].sequence) and (draft := self._draft(sequence)):
            return self._verify(sequence, draft, events, spent)
        token_ids = np.zeros(len(plan.decode), np.int64)  # [B]; idle rows may hold any token
        positions = np.zeros(len(plan.decode), np.int64)  # [B]
        sequences = [row.sequence for row in plan.decode]
        for row, planned in enumerate(plan.decode):
            positions[row] = planned.position
            if planned.sequence is not None:
                token_ids[row] = planned.sequence.token_ids[-1]
        logits = self._computed(lambda: self.session.decode(plan.first_slot, token_ids, positions), sequences, events)
        if logits is None:
            return 0
        for sequence in filter(None, sequences):
            self._scheduler.commit_decode(sequence)
        return self._sample(logits, sequences, events, spent)

    def _draft(self, sequence: Sequence) -> list[int]:
        if not self._config.drafts:
            return []
        drafter = self._drafts.get(sequence)
        if drafter is None:
            drafter = self._drafts[sequence] = NgramDraft(self._config.max_draft_tokens)
        for token_id in sequence.token_ids[drafter.num_observed :]:
            drafter.observe(token_id)
        return drafter.propose(sequence.request.sampling.max_tokens - sequence.num_generated - 1)

    def _verify(self, sequence: Sequence, draft: list[int], events: list[Event], spent: _Spent) -> int:
        """Compute the last token and its draft in one call, and draw tokens as long as they meet the draft.

        Each token is drawn from the model's own distribution given what was drawn before it, exactly as without a
        draft; a draft that is met only saves the call. Returns how many tokens were drawn.
        """
        token_ids = np.array([sequence.token_ids[-1], *draft], np.int64)  # [1 + draft]
        slot, start, count = sequence.slot, sequence.num_computed, len(token_ids)
        logits = self._computed(lambda: self.session.prefill(slot, token_ids, start, count), [sequence], events)
        if logits is None:
            return 0
        drawn = 0
        for row in range(len(token_ids)):
            self._scheduler.commit_decode(sequence)
            drawn += self._sample(logits[row : row + 1], [sequence], events, spent)
            if sequence.phase is Phase.FINISHED or row == len(draft) or sequence.token_ids[-1] != draft[row]:
                break
        accepted = max(0, drawn - 1)
        self._drafted_tokens += len(draft)
        self._accepted_tokens += accepted
        if sequence in self._drafts:
            self._drafts[sequence].report(len(draft), accepted)
        return drawn

    def _prefill(self, chunk: PrefillChunk, events: list[Event], spent: _Spent) -> int:
        sequence = chunk.sequence
        if sequence.phase is Phase.FINISHED:
            return 0
        token_ids = np.array(sequence.token_ids[chunk.start : chunk.stop], np.int64)  # [T]
        slot, start, count = sequence.slot, chunk.start, 1 if chunk.is_last else 0
        logits = self._computed(lambda: self.session.prefill(slot, token_ids, start, count), [sequence], events)
        if logits is None:
            return 0
        self._scheduler.commit_prefill(chunk)
        if chunk.is_last:
            self._sample(logits, [sequence], events, spent)
        return chunk.stop - chunk.start

    def _computed(
        self, call: Callable[[], FloatArray], sequences: Iterable[Sequence | None], events: list[Event]
    ) -> FloatArray | None:
        """What a session's call returns; None if its backend failed, which ends ``sequences`` and no others."""
        try:
            return call()
        except (DeviceError, MemoryError) as error:
            for sequence in filter(None, sequences):
                self._fail(sequence, error, events)
            return None

    def _sample(self, logits: FloatArray, sequences: list[Sequence | None], events: list[Event], spent: _Spent) -> int:
        """Draw one token per row with a sequence, and commit it; returns how many were drawn."""
        begin = self._clock()
        states = [None if sequence is None else self._states[sequence] for sequence in sequences]
        drawn = sample(logits, states)
        sampled = self._clock()
        count = 0
        for sequence, token in zip(sequences, drawn, strict=True):
            if sequence is None:
                continue
            if token.token_id < 0:
                self._fail(sequence, ArithmeticError("the model produced no usable number"), events)
                continue
            self._commit(sequence, token, sampled, events)
            count += 1
        spent.sample_ns += sampled - begin
        spent.commit_ns += self._clock() - sampled
        return count

    def _commit(self, sequence: Sequence, token: Sampled, now_ns: int, events: list[Event]) -> None:
        request = sequence.request
        sequence.token_ids.append(token.token_id)
        sequence.first_token_ns = sequence.first_token_ns or now_ns
        name, admitted_ns = request.request_id, sequence.admitted_ns
        events.append(TokenEvent(name, sequence.index, token.token_id, token.logprobs, admitted_ns))
        params = request.sampling
        if token.token_id in params.stop_token_ids:
            self._finish(sequence, FinishReason.STOP, events, stop_token_id=token.token_id)
        elif token.token_id in request.eos_token_ids and not params.ignore_eos:
            self._finish(sequence, FinishReason.STOP, events)
        elif sequence.num_generated >= params.max_tokens:
            self._finish(sequence, FinishReason.LENGTH, events)

    def _fail(self, sequence: Sequence, error: Exception, events: list[Event]) -> None:
        self._finish(sequence, FinishReason.ERROR, events, error=f"{type(error).__name__}: {error}")

    def _finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        events: list[Event],
        *,
        stop_token_id: int | None = None,
        error: str | None = None,
    ) -> None:
        self._scheduler.finish(sequence, rows_valid=error is None)
        del self._states[sequence]
        self._drafts.pop(sequence, None)
        timing = Timing(
            arrival_ns=sequence.request.arrival_ns,
            admitted_ns=sequence.admitted_ns,
            first_token_ns=sequence.first_token_ns,
            finish_ns=self._clock(),
        )
        events.append(
            FinishEvent(
                request_id=sequence.request.request_id,
                index=sequence.index,
                reason=reason,
                stop_token_id=stop_token_id,
                num_generated=sequence.num_generated,
                num_cached_tokens=sequence.num_cached,
                timing=timing,
                error=error,
            )
        )


@dataclass(slots=True)
class _Spent:
    sample_ns: int = 0
    commit_ns: int = 0
