"""What a schema costs a whole step: short blocks of steps with and without one in turns, compared pair by pair.

Two engines in one process, each with a session of its own over the same package: the same prompts, batch and lengths,
one of them bound to a constraint. A block is some steps of one of them, the next block as many of the other, so both
blocks of a pair see the machine in the same state and its drift cancels. Pairs alternate in which comes first; in the
second half the engines have swapped sessions, so that nothing of where a session's memory lies is left in the median.

A block's first step is not timed. In it the caches fill again and the other session's threads come to rest; and as its
masks were computed while nobody's model ran, it would be a step whose masks are free. No mask is left to be computed
beside the other engine's block. What is compared is time per token, so a row whose mask is late counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, TokenEvent
from runtime.session.session import Session
from runtime.token_mask import Constraint, Matcher

from bench.errors import BenchError
from bench.in_process.engine_breakdown import PROMPT_TOKENS, engine_at_work, event_loop_elsewhere, run_step
from bench.in_process.schema_report import SchemaCost
from bench.metrics.stats import median_interval

BLOCK_STEPS = 4
"""Timed steps of a block: short beside the seconds in which a shared machine changes its speed."""
_LEAST_PAIRS = 2
_AHEAD_TOKENS = 16
"""A row may get ahead of those whose masks are late."""
_WAIT_S = 1.0


@dataclass(slots=True)
class _Watched:
    """A constraint that remembers the matchers that it gave."""

    constraint: Constraint
    matchers: list[Matcher] = field(default_factory=list)

    def matcher(self) -> Matcher:
        """See ``Constraint``."""
        self.matchers.append(self.constraint.matcher())
        return self.matchers[-1]

    def come_to_rest(self) -> None:
        """Return when no mask is being computed. One that nobody may need is not begun."""
        for matcher in self.matchers:
            while not matcher.is_deferred and not matcher.wait(_WAIT_S):
                pass


def row_tokens(num_steps: int) -> int:
    """Tokens that a row may come to for ``num_steps`` timed steps, in either half."""
    return (_pairs(num_steps) // 2 + 1) * (1 + BLOCK_STEPS) + _AHEAD_TOKENS


def tokens_needed(batch: int, num_steps: int) -> int:
    """Tokens that a slot must hold."""
    return PROMPT_TOKENS + batch + 2 + row_tokens(num_steps)


def measure_schema_cost(
    sessions: tuple[Session, Session],
    batch: int,
    sampling: str,
    constraint: Constraint,
    *,
    num_steps: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> SchemaCost:
    """Ratios of pairs of blocks, about ``num_steps`` timed steps with and as many without ``constraint``.

    ``clock`` returns nanoseconds. Raises BenchError when that does not fit the sessions, or a sequence ends early.
    """
    for session in sessions:
        if batch > session.info.num_slots or tokens_needed(batch, num_steps) > session.info.max_model_len:
            raise BenchError(
                f"{num_steps} steps of batch {batch} do not fit {session.info.num_slots} slots of "
                f"{session.info.max_model_len} tokens"
            )
    pairs: list[tuple[float, float]] = []
    half = _pairs(num_steps) // 2
    with event_loop_elsewhere() as loop:
        for plain_session, bound_session in (sessions, sessions[::-1]):
            watched = _Watched(constraint)
            length = row_tokens(num_steps) + batch + 2
            plain = engine_at_work(plain_session, batch, sampling, length, None)
            bound = engine_at_work(bound_session, batch, sampling, length, watched)
            arms = _Arms(plain, bound, watched, batch, loop, clock)
            pairs += [arms.pair(bound_first=bool(index % 2)) for index in range(half + 1)][1:]
            arms.end()
    plain_us, bound_us = np.array(pairs).T / 1e3
    ratios = (bound_us / plain_us).tolist()
    return SchemaCost(
        batch=batch,
        sampling=sampling,
        steps_per_block=BLOCK_STEPS,
        ratios=ratios,
        ratio=median_interval(ratios),
        plain_us=float(np.median(plain_us)),
        bound_us=float(np.median(bound_us)),
    )


def _pairs(num_steps: int) -> int:
    """An even number of pairs."""
    return 2 * max(_LEAST_PAIRS // 2, -(-num_steps // (2 * BLOCK_STEPS)))


@dataclass(frozen=True, slots=True)
class _Arms:
    """Both engines of one half."""

    plain: Engine
    bound: Engine
    watched: _Watched
    batch: int
    loop: asyncio.AbstractEventLoop
    clock: Callable[[], int]

    def pair(self, *, bound_first: bool) -> tuple[float, float]:
        """Nanoseconds of a row's token without and with the constraint, each of a block."""
        if bound_first:
            bound = self._block(self.bound)
            self.watched.come_to_rest()
            return self._block(self.plain), bound
        plain = self._block(self.plain)
        bound = self._block(self.bound)
        self.watched.come_to_rest()
        return plain, bound

    def end(self) -> None:
        """Drop what both engines still do."""
        for engine in (self.plain, self.bound):
            for request_id in engine.live_request_ids():
                engine.abort(request_id)

    def _block(self, engine: Engine) -> float:
        """Nanoseconds for a token of each row, over all but the first of a block's steps."""
        is_reading = True  # prompts, or nothing while a mask is late
        while is_reading:
            num_tokens, is_reading = self._step(engine)
            is_reading = is_reading or not num_tokens
        begin, num_tokens = self.clock(), 0
        while num_tokens < BLOCK_STEPS * self.batch:
            num_tokens += self._step(engine)[0]
        return (self.clock() - begin) / num_tokens * self.batch

    def _step(self, engine: Engine) -> tuple[int, bool]:
        """Tokens that one step drew, those whose masks were late included, and whether it read prompts."""
        result, _ = run_step(engine, self.loop)
        if any(isinstance(event, FinishEvent) for event in result.events):
            raise BenchError("a sequence ended before it was measured")
        return sum(isinstance(event, TokenEvent) for event in result.events), result.num_prefilled > 0
