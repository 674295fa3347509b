"""Plays a workload against an endpoint: closed loop, open loop or trace; warm-up, cool-down, cancellation, probes.

Decides when each request starts and keeps its record; how it travels is the client's matter, what it asks the
workload's, what the times mean the metrics'.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bench.http.arrivals import Arrivals
from bench.http.chat_stream import StreamRecorder
from bench.http.endpoint import ChatOptions, Message, chat_body
from bench.http.http_client import HttpClient
from bench.http.tokens import TokenCounter
from bench.http.workload import Conversation, Turn, Workload
from bench.metrics.records import Outcome, Phase, RequestRecord

OnRecord = Callable[[RequestRecord], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """A long prompt sent every ``interval_s`` beside the load, to show how its prefill stalls running streams."""

    text: str
    interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """How hard and how long to ask.

    Exactly one of ``concurrency`` (closed loop) and ``arrivals`` (open loop) is set, or neither for a trace, whose
    conversations bring their start times. ``request_count`` measured requests or ``duration_s`` seconds, whichever
    ends first; then up to ``cooldown_count`` more while measured ones still run. After ``duration_s`` running requests
    may take ``grace_s`` more. ``max_concurrency`` bounds an open loop. ``cancel_share`` (0..1) of the requests leave
    ``cancel_after_s`` after sending.

    ``seed`` and ``run`` decide the prompts. Each run of a benchmark has a number of its own, since an endpoint that
    caches prompts would otherwise answer the second load of a sweep from what the first one left.
    """

    concurrency: int | None = None
    arrivals: Arrivals | None = None
    request_count: int | None = None
    duration_s: float | None = None
    grace_s: float = 30.0
    ramp_s: float = 0.0
    warmup_count: int = 0
    cooldown_count: int = 0
    max_concurrency: int | None = None
    cancel_share: float = 0.0
    cancel_after_s: float = 0.0
    timeout_s: float = 600.0
    max_errors: int | None = None
    probe: Probe | None = None
    seed: int = 0
    run: int = 0


@dataclass(frozen=True, slots=True)
class _Slot:
    """A request's place in the run."""

    phase: Phase
    scheduled_ns: int
    session: int
    turn: int


class LoadRunner:
    """One run of a plan. ``records`` grows as requests end and stays usable if the run is stopped half-way."""

    def __init__(
        self, client: HttpClient, options: ChatOptions, plan: LoadPlan, workload: Workload, on_record: OnRecord
    ) -> None:
        self.records: list[RequestRecord] = []
        self.num_running = 0
        self.stop_reason: str | None = None
        self._client = client
        self._options = options
        self._plan = plan
        self._on_record = on_record
        self._rng = np.random.default_rng([plan.seed, plan.run, 1])
        self._conversations = workload.conversations(np.random.default_rng([plan.seed, plan.run, 0]))
        self._answers: dict[int, str] = {}
        self._num_sent = 0
        self._num_sessions = 0
        self._num_errors = 0
        self._num_measured_open = 0
        self._gate = asyncio.Semaphore(plan.max_concurrency) if plan.max_concurrency else None
        self._phases: Iterator[Phase] = iter(())
        self._deadline_ns: int | None = None
        self._load: asyncio.Future[None] | None = None

    def stop(self, reason: str, *, now: bool = False) -> None:
        """Start no more requests and mark the run as cut short; with ``now`` also leave those that are running."""
        self.stop_reason = self.stop_reason or reason
        self._phases = iter(())
        if now and self._load is not None:
            self._load.cancel()

    async def run(self) -> list[RequestRecord]:
        """Warm up, drain, measure. Returns all records in the order in which requests were sent."""
        plan = self._plan
        if plan.warmup_count:
            self._phases = iter([Phase.WARMUP] * plan.warmup_count)
            await self._drive()
        if self.stop_reason is None:
            self._phases = _measured_phases(plan)
            if plan.duration_s is not None:
                self._deadline_ns = self._client.now_ns() + round(plan.duration_s * 1e9)
            await self._drive()
        self.records.sort(key=lambda record: record.index)
        return self.records

    def count_answers(self, counter: TokenCounter) -> list[RequestRecord]:
        """The records with the client's own token counts; done after the run, because counting takes the CPU."""
        return [
            replace(record, own_tokens=counter.count(self._answers[record.index]))
            if record.index in self._answers
            else record
            for record in self.records
        ]

    async def _drive(self) -> None:
        self._load = load = asyncio.ensure_future(self._closed() if self._plan.concurrency else self._open())
        probe = asyncio.ensure_future(self._probe_forever(self._plan.probe)) if self._plan.probe else None
        limit_s = None
        if self._deadline_ns is not None:
            limit_s = max(0.0, (self._deadline_ns - self._client.now_ns()) / 1e9 + self._plan.grace_s)
        try:
            await asyncio.wait({load}, timeout=limit_s)
        finally:
            tasks = [task for task in (load, probe) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not load.cancelled():
            load.result()

    def _next_phase(self) -> Phase | None:
        if self._deadline_ns is not None and self._client.now_ns() >= self._deadline_ns:
            return None
        phase = next(self._phases, None)
        if phase is Phase.MEASURED:
            self._num_measured_open += 1
        # A cool-down request keeps measured ones company; when the last of them has ended it serves nobody.
        return None if phase is Phase.COOLDOWN and self._num_measured_open == 0 else phase

    async def _closed(self) -> None:
        count = self._plan.concurrency or 1
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._user(self._plan.ramp_s * number / count))

    async def _user(self, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        while (phase := self._next_phase()) is not None:
            conversation = next(self._conversations, None)
            if conversation is None:
                return
            await self._play(conversation, phase, self._client.now_ns())

    async def _open(self) -> None:
        begin_ns = self._client.now_ns()
        starts = self._plan.arrivals.starts_s(self._rng) if self._plan.arrivals else None
        async with asyncio.TaskGroup() as group:
            for conversation in self._conversations:
                start_s = next(starts) if starts is not None else conversation.start_s or 0.0
                due_ns = begin_ns + round(start_s * 1e9)
                if self._deadline_ns is not None and due_ns >= self._deadline_ns:
                    return
                await asyncio.sleep(max(0.0, (due_ns - self._client.now_ns()) / 1e9))
                phase = self._next_phase()
                if phase is None:
                    return
                group.create_task(self._play(conversation, phase, due_ns))

    async def _play(self, conversation: Conversation, phase: Phase | None, scheduled_ns: int) -> None:
        session = self._num_sessions
        self._num_sessions += 1
        history = list(conversation.opening)
        for number, turn in enumerate(conversation.turns):
            if number:
                await asyncio.sleep(turn.think_s)
                phase, scheduled_ns = self._next_phase(), self._client.now_ns()
            if phase is None:
                return
            history.append(Message("user", turn.text))
            answer = await self._ask(tuple(history), turn, _Slot(phase, scheduled_ns, session, number))
            if answer is None:
                return
            history.append(Message("assistant", answer))

    async def _ask(self, messages: tuple[Message, ...], turn: Turn, slot: _Slot) -> str | None:
        """One request; the answer's text, or None when there is no whole answer to go on with."""
        plan = self._plan
        leaves = plan.cancel_share > 0 and slot.phase is Phase.MEASURED and self._rng.random() < plan.cancel_share
        index = self._num_sent
        self._num_sent += 1
        recorder = StreamRecorder()
        body = chat_body(self._options, messages, turn.max_tokens)
        outcome = Outcome.UNFINISHED
        try:
            async with self._gate or contextlib.nullcontext():
                self.num_running += 1
                try:
                    cancelled = await self._client.chat(
                        body, recorder, timeout_s=plan.timeout_s, cancel_after_s=plan.cancel_after_s if leaves else None
                    )
                finally:
                    self.num_running -= 1
            outcome = Outcome.CANCELLED if cancelled else Outcome.FAILED if recorder.fault else Outcome.OK
        finally:
            record = _record(
                recorder,
                outcome,
                slot,
                index=index,
                asked_tokens=turn.max_tokens,
                end_ns=self._client.now_ns(),
            )
            self._keep(record, recorder)
        return "".join(recorder.text) if outcome is Outcome.OK else None

    def _keep(self, record: RequestRecord, recorder: StreamRecorder) -> None:
        self.records.append(record)
        self._num_measured_open -= record.phase is Phase.MEASURED
        if record.outcome is Outcome.OK:
            self._answers[record.index] = "".join(recorder.text)
        if record.outcome is Outcome.FAILED:
            self._num_errors += 1
            if self._plan.max_errors is not None and self._num_errors >= self._plan.max_errors:
                self.stop(f"stopped after {self._num_errors} failed requests (--max-errors)")
        self._on_record(record)

    async def _probe_forever(self, probe: Probe) -> None:
        turn = Turn(probe.text, 1)
        while True:
            await asyncio.sleep(probe.interval_s)
            now_ns = self._client.now_ns()
            # A prefix that is new each time, so that the endpoint's cache cannot skip the prefill.
            message = Message("user", f"{now_ns} {probe.text}")
            await self._ask((message,), turn, _Slot(Phase.PROBE, now_ns, -1, 0))


def _measured_phases(plan: LoadPlan) -> Iterator[Phase]:
    count = 0
    while plan.request_count is None or count < plan.request_count:
        yield Phase.MEASURED
        count += 1
    for _ in range(plan.cooldown_count):
        yield Phase.COOLDOWN


def _record(
    recorder: StreamRecorder, outcome: Outcome, slot: _Slot, *, index: int, asked_tokens: int, end_ns: int
) -> RequestRecord:
    return RequestRecord(
        index=index,
        phase=slot.phase,
        outcome=outcome,
        scheduled_ns=slot.scheduled_ns,
        sent_ns=recorder.sent_ns or end_ns,
        end_ns=end_ns,
        asked_tokens=asked_tokens,
        session=slot.session,
        turn=slot.turn,
        headers_ns=recorder.headers_ns,
        first_answer_ns=recorder.first_answer_ns,
        chunk_ns=recorder.arrivals(),
        chunk_tokens=recorder.chunk_tokens(),
        prompt_tokens=recorder.prompt_tokens,
        completion_tokens=recorder.completion_tokens,
        cached_tokens=recorder.cached_tokens,
        finish_reason=recorder.finish_reason,
        error_kind=recorder.fault.kind if recorder.fault else None,
        error_text=str(recorder.fault) if recorder.fault else None,
        http_status=recorder.status,
    )
