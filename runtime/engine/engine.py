"""Every live sequence over one session, step by step. Single-threaded and clock-injected; no queue, no text.

Owns the scheduler and the running totals; what a step does is ``runtime.engine.step``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from runtime.engine.ahead import Ahead
from runtime.engine.awake_clock import AwakeClock
from runtime.engine.call_health import CallHealth
from runtime.engine.config import EngineConfig
from runtime.engine.ngram_draft import NgramDraft
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.engine.step import Step
from runtime.engine.step_report import EngineStats, StepResult, Totals
from runtime.errors import DeviceError
from runtime.events import Event, FinishEvent, FinishReason
from runtime.request import Request, SamplingParams
from runtime.sampling.row_rules import RowRules
from runtime.session.session import Session

_WARM_UP_PROMPT_TOKENS = 8
_WARM_UP_NEW_TOKENS = 3
_NS_PER_S = 1_000_000_000


def try_out(session: Session, config: EngineConfig) -> None:
    """Warm an engine up that nobody will use, to see whether the session can serve. Raises DeviceError."""
    Engine(session, config).warm_up()


class Engine:
    """Runs sequences over a session. ``clock`` returns nanoseconds."""

    def __init__(self, session: Session, config: EngineConfig, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.session = session
        info = session.info
        self._scheduler = Scheduler(info, config)
        self._rules = RowRules(info.num_slots, info.vocab_size) if info.selects else None
        self._config = config
        self._clock = clock
        self._totals = Totals()
        self._health = CallHealth()
        self._ahead = Ahead(session, self._scheduler, is_on=config.run_ahead)
        self._untold: list[Event] = []
        limit_s = config.max_queue_time_s
        self._queue_limit_ns = None if limit_s is None else int(limit_s * _NS_PER_S)
        self._awake = AwakeClock(clock, self._queue_limit_ns or 0)

    @property
    def has_work(self) -> bool:
        """True while any choice is unfinished, or a call is on its way."""
        return self._scheduler.has_work or self._ahead.flight is not None

    def stats(self) -> EngineStats:
        """Counts as of now."""
        info, totals = self.session.info, self._totals
        return EngineStats(
            num_running=len(self._scheduler.running),
            num_waiting=self._scheduler.num_waiting,
            num_slots=info.num_slots,
            kv_used_tokens=sum(sequence.num_computed for sequence in self._scheduler.running),
            kv_capacity_tokens=info.num_slots * info.max_model_len,
            num_steps=totals.num_steps,
            run_ns=totals.run_ns,
            prefix_query_tokens=totals.prefix_query_tokens,
            prefix_hit_tokens=totals.prefix_hit_tokens,
            drafted_tokens=totals.drafted_tokens,
            accepted_tokens=totals.accepted_tokens,
            step_tokens=totals.step_tokens.snapshot(),
        )

    def add(self, request: Request) -> None:
        """Queue every choice of a request."""
        queued_ns = self._awake.at_ns(request.arrival_ns)
        for index in range(request.n):
            sequence = Sequence(request, index, queued_ns)
            if self._config.drafts:
                sequence.draft = NgramDraft(sequence.token_ids, self._config.max_draft_tokens)
            self._scheduler.add(sequence)

    def live_request_ids(self) -> list[str]:
        """Ids of the requests that have unfinished choices."""
        return list(dict.fromkeys(sequence.request.request_id for sequence in self._scheduler.alive()))

    def abort(self, request_id: str, index: int | None = None) -> list[Event]:
        """Drop one choice or all that is left of a request; they end with ABORT. Unknown ids are ignored."""
        sequences = self._scheduler.of_request(request_id)
        return [self._end(one, FinishReason.ABORT) for one in sequences if index is None or one.index == index]

    def fail_all(self, error: str) -> list[Event]:
        """End every live choice with ERROR: the engine cannot go on.

        What the step that failed had to tell before it did comes first: it holds the ends of others.
        """
        told, self._untold = self._untold, []
        return told + [self._end(sequence, FinishReason.ERROR, error) for sequence in list(self._scheduler.alive())]

    def warm_up(self) -> None:
        """Generate a few tokens through the whole path. Raises DeviceError when that fails."""
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
                    raise DeviceError(f"generating a few tokens failed: {event.error}")
        self._totals = Totals()

    def step(self) -> StepResult:
        """Run the next step; with no work left it does nothing. Raises DeviceLost when the session is at its end."""
        step = Step(
            self.session,
            self._scheduler,
            self._rules,
            totals=self._totals,
            health=self._health,
            ahead=self._ahead,
            clock=self._clock,
        )
        self._untold = step.told.events
        if self._queue_limit_ns is not None:
            for sequence in self._scheduler.waiting_since_before(self._awake.now_ns() - self._queue_limit_ns):
                step.told.end(sequence, FinishReason.EXPIRED)
        result = step.run()
        self._totals.run_ns += result.times.run_ns
        self._untold = []
        return result

    def _end(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> Event:
        self._scheduler.finish(sequence, rows_valid=error is None)
        return sequence.finished(reason, self._clock(), error=error)
