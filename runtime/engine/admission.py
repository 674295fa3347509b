"""How long a newcomer would wait before the engine turns to it, and whether that is too long to be accepted.

A queue bounded by a count alone holds half a minute of work on a slow machine and a blink on a fast one. So the wait
is predicted from what the engine has shown so far. Two things can be short:

* slots: with every slot taken, ``k`` choices must end before a newcomer gets one. ``num_slots`` of them live for
  ``residence`` seconds each, so one ends every ``residence / num_slots`` seconds (Little's law).
* arithmetic: prompts are computed in order of arrival, so a newcomer waits for those of all requests that have no
  token yet, at the rate at which prompts were computed so far, cached parts and the steps' decoding included.

The longer of the two counts: while one is short, the other is served on the side. Nothing measured, nothing refused.
Knows no thread and no session; ``clock`` returns nanoseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

from runtime.engine.config import EngineConfig
from runtime.errors import Overloaded
from runtime.events import Event, FinishEvent, TokenEvent
from runtime.request import Request

_NS_PER_S = 1_000_000_000
_MAX_RETRY_S = 60
_RESIDENCE_WEIGHT = 1 / 16  # of the newest choice in the running mean
_RATE_MEMORY_NS = 8 * _NS_PER_S  # prompt computing that the rate remembers in full; older counts half, a quarter, ...


class Admission:
    """Counts what lives in the engine, measures its pace, and refuses what would wait too long."""

    def __init__(self, config: EngineConfig, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self._config = config
        self._clock = clock
        self.num_slots = 0
        self._choices: dict[str, set[int]] = {}  # unfinished ones of each request
        self._leaving: set[tuple[str, int]] = set()  # of them, those that end with the next step
        self.num_choices = 0
        self._residence_ns = 0.0
        self._admitted_ns: dict[tuple[str, int], int] = {}  # choices that have drawn a token
        self._prompts: dict[str, int] = {}  # tokens of prompts without a first token
        self._prefilled_tokens = 0  # of those prompts
        self._rate_tokens = 0.0
        self._rate_ns = 0.0

    def predicted_wait_s(self) -> float:
        """Seconds that a request accepted now would wait before the engine turns to its prompt."""
        return max(self._slot_wait_ns(), self._prompt_wait_ns()) / _NS_PER_S

    def check(self) -> None:
        """Raise Overloaded, with the time after which it may be different, when a newcomer cannot be accepted."""
        waiting = max(0, self.num_choices - self.num_slots)
        if self.num_choices >= self.num_slots and waiting >= self._config.max_queue:
            raise Overloaded(
                f"the queue is full: {self.num_slots} choices are running and {waiting} are waiting, "
                f"the limit is {self._config.max_queue}; try again later",
                _retry_after_s(self.predicted_wait_s()),
            )
        limit_s = self._config.max_predicted_wait_s
        if limit_s is not None and (wait_s := self.predicted_wait_s()) > limit_s:
            retry_s = _retry_after_s(wait_s - limit_s)
            raise Overloaded(
                f"the server is at its limit: a request would wait about {wait_s:.1f} s to begin, the limit is "
                f"{limit_s:g} s; try again in {retry_s} s",
                retry_s,
            )

    def accept(self, request: Request) -> None:
        """Count a request as accepted."""
        self.num_choices += request.n
        self._choices[request.request_id] = set(range(request.n))
        self._prompts[request.request_id] = len(request.prompt_ids)

    def note_abort(self, request_id: str, index: int | None) -> None:
        """Learn that one choice, or all of a request, will end before the next step: nobody waits for them."""
        unfinished = self._choices.get(request_id, set())
        gone = unfinished if index is None else unfinished & {index}
        self._leaving |= {(request_id, choice) for choice in gone}
        if len(gone) == len(unfinished) and request_id in self._prompts:
            self._note_prompt_end(request_id, complete=False)

    def note_step(self, num_prefilled: int, step_ns: int) -> None:
        """Learn from a step that computed ``num_prefilled`` prompt tokens."""
        if num_prefilled:
            self._prefilled_tokens += num_prefilled
            self._rate_ns += step_ns

    def note_events(self, events: Iterable[Event]) -> None:
        """Learn from what a step brought."""
        for event in events:
            if isinstance(event, FinishEvent):
                self._note_choice_end(event)
                continue
            if isinstance(event, TokenEvent):
                self._admitted_ns.setdefault((event.request_id, event.index), event.admitted_ns)
            if self._prompts and event.request_id in self._prompts:
                self._note_prompt_end(event.request_id, complete=True)

    def _note_prompt_end(self, request_id: str, *, complete: bool) -> None:
        num_tokens = self._prompts[request_id]
        is_next = next(iter(self._prompts)) == request_id
        del self._prompts[request_id]
        computed = min(num_tokens, self._prefilled_tokens) if complete or is_next else 0
        self._prefilled_tokens -= computed
        self._rate_tokens += num_tokens if complete else computed
        if self._rate_ns > _RATE_MEMORY_NS:
            self._rate_tokens /= 2
            self._rate_ns /= 2

    def _note_choice_end(self, event: FinishEvent) -> None:
        self.num_choices -= 1
        self._leaving.discard((event.request_id, event.index))
        self._admitted_ns.pop((event.request_id, event.index), None)
        unfinished = self._choices[event.request_id]
        unfinished.discard(event.index)
        if not unfinished:
            del self._choices[event.request_id]
        if event.request_id in self._prompts:
            self._note_prompt_end(event.request_id, complete=False)
        if event.timing.admitted_ns:
            residence_ns = event.timing.finish_ns - event.timing.admitted_ns
            weight = _RESIDENCE_WEIGHT if self._residence_ns else 1.0
            self._residence_ns += weight * (residence_ns - self._residence_ns)

    def _slot_wait_ns(self) -> float:
        to_end = self.num_choices - len(self._leaving) - self.num_slots + 1
        if to_end <= 0 or not self.num_slots:
            return 0.0
        now_ns = self._clock()
        ages_ns = [now_ns - admitted_ns for admitted_ns in self._admitted_ns.values()]
        # Answers longer than any before show in the age of those that run.
        residence_ns = max(self._residence_ns, sum(ages_ns) / len(ages_ns) if ages_ns else 0.0)
        return to_end * residence_ns / self.num_slots

    def _prompt_wait_ns(self) -> float:
        if not self._rate_tokens:
            return 0.0
        left_tokens = max(0, sum(self._prompts.values()) - self._prefilled_tokens)
        return left_tokens * self._rate_ns / self._rate_tokens


def _retry_after_s(wait_s: float) -> int:
    return min(_MAX_RETRY_S, max(1, math.ceil(wait_s)))
