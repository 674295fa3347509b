"""Specs in, compiled constraints out, off the event loop: a bounded queue, a cache, and one thread that compiles.

Knows no request fields but the one to blame, and no HTTP.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import llguidance

from runtime.constraint import limits
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.constraint_cache import ConstraintCache
from runtime.constraint.grammar import Grammar
from runtime.constraint.mask_threads import MaskThreads
from runtime.constraint.spec import ConstraintSpec, Part
from runtime.constraint.spec_size import checked_size
from runtime.constraint.token_table import TokenTable
from runtime.constraint.trial import checked_mask, compiled
from runtime.constraint.trial_process import TrialProcess
from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import ConstraintFailed, ConstraintUntried, EngineUnavailable, Overloaded, RequestError


class ConstraintCompiler:
    """Compiles for one model. Safe on any thread. The process for trials starts with the first constraint."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._table: TokenTable | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="constraints")
        self._places = threading.BoundedSemaphore(limits.COMPILE_QUEUE)
        self._threads = MaskThreads(limits.MASK_THREADS)
        self._cache = ConstraintCache(limits.CACHED_CONSTRAINTS, limits.CACHED_BYTES)
        self._trials = TrialProcess(vocabulary)

    def submit(self, spec: ConstraintSpec) -> Future[CompiledConstraint]:
        """A future of the constraint; it fails with RequestError that names ``spec.field``. Costs a look-up here.

        Raises Overloaded where too many constraints wait, EngineUnavailable after ``close``, and RequestError at once
        for what is too large to be looked at. Who asks for what is being compiled waits for the same.
        """
        answer: Future[CompiledConstraint] = Future()
        shared = self._cache.get(spec.part)
        if shared is None:
            try:
                shared = self._queued(spec.part)
            except RequestError as error:
                raise _blaming(error, spec.field) from error
        shared.add_done_callback(lambda done: _hand_on(done, answer, spec.field))
        return answer

    def _queued(self, part: Part) -> Future[CompiledConstraint]:
        size = checked_size(part)
        if not self._places.acquire(blocking=False):
            raise Overloaded(f"{limits.COMPILE_QUEUE} constraints wait to be compiled, no more may wait")
        try:
            future = self._executor.submit(self._compile, part)
        except RuntimeError as error:
            self._places.release()
            raise EngineUnavailable("the server is closing; no constraint is compiled any more") from error
        self._cache.put(part, future, size)
        future.add_done_callback(lambda done: self._finished(part, done))
        return future

    def _finished(self, part: Part, future: Future[CompiledConstraint]) -> None:
        """A refusal is remembered like a constraint; whatever else went wrong may go well the next time."""
        self._places.release()
        error = None if future.cancelled() else future.exception()
        by_chance = future.cancelled() or isinstance(error, ConstraintUntried)
        if by_chance or not isinstance(error, RequestError | None):
            self._cache.discard(part, future)
        elif error is None:
            self._cache.resize(part, future, future.result().num_bytes)

    def prepare(self) -> None:
        """Build the table of tokens before there is work: it holds up every thread for up to 0.7 s. Blocks."""
        with contextlib.suppress(RuntimeError, CancelledError):  # closed meanwhile
            self._executor.submit(self._ready_table).result()

    def close(self) -> None:
        """End the threads; what waits to be compiled is cancelled. No matcher may be used afterwards."""
        self._executor.shutdown(cancel_futures=True)
        self._trials.close()
        self._threads.close()

    def _ready_table(self) -> TokenTable:
        if self._table is None:
            self._table = TokenTable(self._vocabulary)
        return self._table

    def _compile(self, part: Part) -> CompiledConstraint:
        self._trials.start()  # the first time it gets ready while the table is built
        table = self._ready_table()
        grammar, num_bytes = self._trials.run(part)
        try:
            origin = self._matcher(grammar)
        except ConstraintFailed as error:
            raise RequestError(f"the constraint cannot be enforced: {error}") from error
        return CompiledConstraint(
            origin,
            num_bytes=num_bytes + len(grammar.text),
            table=table,
            threads=self._threads,
            renew=lambda constraint: self._renew(constraint, grammar),
        )

    def _matcher(self, grammar: Grammar) -> llguidance.LLMatcher:
        matcher = compiled(self._ready_table(), grammar)
        checked_mask(matcher)  # builds the states that every first mask needs
        return matcher

    def _renew(self, constraint: CompiledConstraint, grammar: Grammar) -> None:
        with contextlib.suppress(RuntimeError):  # the executor is closed, and so are all choices
            self._executor.submit(lambda: constraint.refresh(self._matcher(grammar)))


def _hand_on(shared: Future[CompiledConstraint], answer: Future[CompiledConstraint], field: str) -> None:
    """A future of one's own for each who asks: to give up waiting cancels nobody else's."""
    if not answer.set_running_or_notify_cancel():
        return
    if shared.cancelled():
        answer.set_exception(EngineUnavailable("the server is closing; the constraint was not compiled"))
    elif error := shared.exception():
        answer.set_exception(_blaming(error, field) if isinstance(error, RequestError) else error)
    else:
        answer.set_result(shared.result())


def _blaming(error: RequestError, field: str) -> RequestError:
    return RequestError(str(error), field)
