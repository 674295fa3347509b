"""One engine's steps in simulated time: the rules of ``runtime.engine.scheduler``, with tokens as numbers.

1. What decodes, decodes in every step. 2. Prompts are computed in chunks within a budget of tokens per step, a larger
one while nothing decodes, first come first served. 3. A request waits while no slot is vacant. 4. A request starts from
the rows that its conversation's slot retains; else from the opening that every conversation shares, once the replica
has it. 5. What a slot retains goes when the slot is needed, least recently used first; and one slot is emptied when an
answer ends while others go on: the engine closes the hole, and what the hole retained has to move.

Left out: copies of rows between slots and the time they take, prompt lookup, constraints, refusals for predicted waits.
While nothing waits for its prompt, steps are alike until the first answer ends, so they pass as one: that makes a
thousand replicas quick, and changes no result, since a newcomer waits for the running step's end here as well.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from bench.simulate.step_times import StepTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """What an engine is set to: slots and the prompt tokens per step, busy and idle."""

    slots: int = 16
    prefill_chunk_tokens: int = 128
    idle_prefill_chunk_tokens: int = 256


@dataclass(slots=True, kw_only=True)
class Job:
    """One request. Tokens of its whole prompt and of its answer; ``cached`` of the prompt were found in a slot."""

    conversation: int
    user: int
    turn: int
    prompt: int
    answer: int
    history: int
    arrival_s: float
    cached: int = 0
    computed: int = 0
    generated: int = 0
    first_token_s: float = math.nan


@dataclass(slots=True)
class Replica:
    """An engine. ``advance`` brings it to a moment; ``next_s`` is when something ends or changes by itself, on cores of
    its own."""

    times: StepTimes
    rules: EngineRules
    opening: int
    waiting: deque[Job] = field(default_factory=deque)
    prefilling: deque[Job] = field(default_factory=deque)
    decoding: list[Job] = field(default_factory=list)
    retained: OrderedDict[int, int] = field(default_factory=OrderedDict)  # conversation -> rows, oldest use first
    has_opening: bool = False
    one_by_one: bool = False  # no steps pass as one: somebody else says how long each takes
    busy_s: float = 0.0
    _begun_s: float = 0.0
    _step_s: float = 0.0  # of one step now running; 0 when idle
    _steps: int = 0  # alike, until something ends
    _chunks: list[tuple[Job, int]] = field(default_factory=list)

    @property
    def load(self) -> int:
        """Requests here, waiting ones too."""
        return len(self.waiting) + len(self.prefilling) + len(self.decoding)

    @property
    def next_s(self) -> float:
        """When the running steps end; infinite while idle."""
        return self._begun_s + self._steps * self._step_s if self._steps else math.inf

    @property
    def step_s(self) -> float:
        """How long the running steps take where nothing else runs; 0 while idle."""
        return self._steps * self._step_s

    def arrive(self, job: Job, now_s: float) -> None:
        """Take a request. A step that runs goes to its end; identical ones that were to follow are planned anew."""
        self.waiting.append(job)
        if not self._steps:
            self._plan(now_s)
        elif self._steps > 1 and not self._chunks:
            passed = math.floor((now_s - self._begun_s) / self._step_s)
            self._steps = min(self._steps, max(1, passed + 1))

    def due(self) -> list[Job]:
        """The jobs that have another token when the running steps end."""
        return [*self.decoding, *(job for job, tokens in self._chunks if job.computed + tokens == job.prompt)]

    def advance(self, end_s: float) -> list[Job]:
        """Bring the running steps to their end, which is ``next_s`` or when others who share the cores let it be, and
        begin the next. Returns the jobs that ended."""
        self.busy_s += end_s - self._begun_s
        ended: list[Job] = []
        for job in self.decoding:
            job.generated += self._steps
        for job, tokens in self._chunks:
            job.computed += tokens
            if job.computed == job.prompt:
                self.prefilling.remove(job)
                self.decoding.append(job)
                job.first_token_s = end_s
                job.generated = 1
                self.has_opening = True
        for job in [job for job in self.decoding if job.generated >= job.answer]:
            self.decoding.remove(job)
            self.retained[job.conversation] = job.prompt + job.answer - 1  # the last token's row is never computed
            ended.append(job)
        if ended and self.decoding:
            self._evict_beyond(self.rules.slots - 1)
        self._plan(end_s)
        return ended

    def fail(self) -> list[Job]:
        """Lose everything; the requests that were here."""
        lost = [*self.decoding, *self.prefilling, *self.waiting]
        self.waiting.clear()
        self.prefilling.clear()
        self.decoding.clear()
        self.retained.clear()
        self.has_opening = False
        self._steps, self._chunks = 0, []
        return lost

    def _plan(self, now_s: float) -> None:
        """Decide the next step, or the next steps if they are alike."""
        self._begun_s, self._chunks = now_s, []
        budget = self.rules.prefill_chunk_tokens if self.decoding else self.rules.idle_prefill_chunk_tokens
        for job in self.prefilling:
            budget -= self._chunk(job, budget)
        while budget > 1 and self.waiting and self._has_slot():
            job = self._admit(self.waiting.popleft())
            budget -= self._chunk(job, budget)
        self._step_s = sum(self.times.prefill(tokens, job.computed) for job, tokens in self._chunks)
        self._steps = 1 if self._chunks else 0
        if self.decoding:
            count = len(self.decoding)
            # With nothing to prefill, steps are alike until the shortest rest is done; their mean depth is halfway.
            alone = self._chunks or self.one_by_one
            self._steps = 1 if alone else min(job.answer - job.generated for job in self.decoding)
            depth = sum(job.prompt + job.generated for job in self.decoding) / count + self._steps / 2
            self._step_s += self.times.decode(count, depth)
        if self._steps:
            self._step_s += self.times.step_overhead_s

    def _has_slot(self) -> bool:
        return len(self.prefilling) + len(self.decoding) < self.rules.slots

    def _admit(self, job: Job) -> Job:
        own = self.retained.pop(job.conversation, None)
        if own is not None:
            job.cached = min(own, job.prompt - 1)  # the last token of a prompt is always computed
        elif self.has_opening:
            job.cached = min(self.opening, job.prompt - 1)
        job.computed = job.cached
        self.prefilling.append(job)
        self._evict_beyond(self.rules.slots)
        return job

    def _evict_beyond(self, slots: int) -> None:
        """Give up retained rows until they and what runs take ``slots`` slots at most."""
        while self.retained and len(self.retained) + len(self.prefilling) + len(self.decoding) > slots:
            self.retained.popitem(last=False)

    def _chunk(self, job: Job, budget: int) -> int:
        tokens = min(job.prompt - job.computed, budget)
        if tokens > 0:
            self._chunks.append((job, tokens))
        return max(tokens, 0)
