"""One choice's way through a compiled grammar: its masks, computed on other threads under a budget of time.

Where the text leaves no choice the library names the tokens that come next: as long as they last no mask is computed,
and no thread is woken. The library hears of tokens with the next mask, on the thread that computes it. Who has one
token in mind may ask for that alone, which takes some 20 us and no thread; where few tokens may come, nobody is asked,
since after a no the mask is late.

The implementation of ``runtime.token_mask.Matcher``. Knows no grammar; the library says which token may come. What
goes wrong in it, and what takes too long, is this choice's ConstraintFailed and nobody else's trouble.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import llguidance
import numpy as np

from runtime.constraint import limits
from runtime.constraint.library_call import LIBRARY_CALL
from runtime.constraint.library_error import meaning
from runtime.constraint.mask_budget import MaskBudget
from runtime.constraint.mask_threads import MaskThreads
from runtime.constraint.token_table import TokenTable
from runtime.errors import ConstraintFailed
from runtime.token_mask import MaskArray, is_allowed


def satisfied(matcher: llguidance.LLMatcher) -> bool:
    """Whether the text so far satisfies the grammar. Of a stopped matcher the library says no more than that."""
    return not matcher.is_error() and (matcher.is_stopped() or matcher.is_accepting())


class GrammarMatcher:
    """See ``runtime.token_mask.Matcher``. ``matcher`` is this choice's own; ``on_close`` hears of tokens and health."""

    def __init__(
        self,
        matcher: llguidance.LLMatcher,
        *,
        table: TokenTable,
        threads: MaskThreads,
        on_close: Callable[[int, bool], None],
    ) -> None:
        self._matcher = matcher
        self._table = table
        self._threads = threads
        self._on_close = on_close
        self._bits: MaskArray = np.zeros(-(-len(table.token_bytes) // 32), np.uint32)
        self._address, self._num_bytes = self._bits.ctypes.data, self._bits.nbytes
        self._mask = self._bits.view()
        self._mask.flags.writeable = False  # the same memory, for those who shall not write to it
        self._busy = threading.Lock()  # held from the order of a mask until it is there, by whoever computes it
        self._job: tuple[int, float] | None = None  # a mask under way: its thread's clock, and what that said first
        self._is_fresh = False  # the mask is that of the next token
        self._is_deferred = False  # the mask is nobody's job yet: one token may do
        self._may_ask = True  # asking for one token is cheap
        self._held_many = False  # the last mask held tokens all over the vocabulary: amid a text the next is likely to
        self._forced: deque[int] = deque()  # the next tokens, where the text leaves no choice; then the mask is fresh
        self._unheard: list[int] = []  # tokens that the library was not told of yet
        self._failure: ConstraintFailed | None = None
        self._num_tokens = 0
        self._budget = MaskBudget()
        self._cost_s = 0.0  # of the last mask
        self._is_closed = False

    def start(self, *, lazily: bool = False) -> None:
        """Have the next mask computed on another thread; twice for one token is once.

        ``lazily``: not before ``wait``, where ``admits`` likely makes do without. After a costly mask it is begun at
        once: neighbours wait a moment for one that begins late.
        """
        if self._is_fresh or self._busy.locked():
            return
        self._raise_failure()
        if lazily and self._may_ask and self._cost_s <= limits.BEHIND_WAIT_S and self._held_many:
            self._is_deferred = True
        else:
            self._order()

    @property
    def is_deferred(self) -> bool:
        """Whether ``admits`` is worth asking."""
        return self._is_deferred

    def admits(self, token_id: int) -> bool:
        """Whether a token may come whose mask was deferred. False: wait for the mask. Raises ConstraintFailed."""
        if not self._is_deferred:
            return False
        begin = time.thread_time()
        try:
            is_possible = self._is_possible(token_id)
        except ConstraintFailed as failure:
            self._fail(failure)
        cost_s = time.thread_time() - begin
        self._may_ask = cost_s <= limits.MAX_QUESTION_S
        self._account(cost_s)
        self._budget.spent_s += cost_s
        self._is_deferred = False
        if not is_possible and not self._is_fresh:
            self._order()
        return is_possible

    def wait(self, timeout_s: float) -> bool:
        """Whether the mask is there within ``timeout_s`` seconds. Raises ConstraintFailed, also while it is computed:

        the library cannot be stopped, so a mask above its limit is left to its thread and its choice ends now. One that
        stood behind a costly mask gets a moment: a further thread works off what waits there.
        """
        if self._is_deferred:
            self._order()
        if not self._busy.locked():
            self._raise_failure()
            return True
        if self._comes_soon():
            timeout_s = max(timeout_s, limits.BEHIND_WAIT_S)
        is_done = timeout_s > 0 and self._busy.acquire(timeout=timeout_s)
        if is_done:
            self._busy.release()
        elif (job := self._job) is not None:
            clock_id, begin_s = job
            self._account(time.clock_gettime(clock_id) - begin_s)
        self._raise_failure()
        return is_done

    def mask(self) -> MaskArray:
        """[ceil(V / 32)], the same array each time. Raises ConstraintFailed."""
        self._join()
        return self._mask

    def sole(self) -> int | None:
        """The only token of the mask, where the text leaves no choice. Raises ConstraintFailed."""
        self._join()
        return self._forced[0] if self._forced else None

    def commit(self, token_id: int) -> None:
        """Go on by one token. Raises ConstraintFailed, also for a token that may not come."""
        self._join()
        was_admitted = self._is_fresh and is_allowed(self._bits, token_id)
        self._num_tokens += 1
        self._unheard.append(token_id)
        self._is_fresh = False
        if not was_admitted:
            self._forced.clear()
            self._tell()
        elif self._forced:
            self._forced.popleft()
            if self._forced:
                self._leave_only(self._forced[0])
                self._is_fresh = True

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """Of a draft's tokens, how many may come one after the other; an end token is the last."""
        self._join()
        if not token_ids:
            return 0
        self._tell()
        with LIBRARY_CALL:
            if self._matcher.is_stopped():
                return int(token_ids[0] in self._table.end_ids)
            return self._matcher.validate_tokens(list(token_ids))

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        """After how many bytes of this token, 0 to all, the text satisfies the constraint."""
        self._join()
        self._tell()
        if token_id in self._table.special_ids:
            tries = {0: [], len(self._table.token_bytes[token_id]): [token_id]}
        else:
            spelled = self._table.token_bytes[token_id]
            tries = {count: self._table.spelled(spelled[:count]) for count in range(len(spelled) + 1)}
        with LIBRARY_CALL:
            return tuple(count for count, token_ids in tries.items() if self._satisfies(token_ids))

    def _satisfies(self, token_ids: list[int]) -> bool:
        copy = self._matcher.deep_copy()
        return copy.try_consume_tokens(token_ids) == len(token_ids) and satisfied(copy)

    def forced(self) -> list[int]:
        """Tokens without a choice, as the model's tokenizer writes the text that must come. Known with the mask."""
        self._join()
        if not self._is_fresh:
            self._tell()
            with LIBRARY_CALL:
                return self._matcher.compute_ff_tokens()
        return list(self._forced)

    @property
    def may_end(self) -> bool:
        """Whether end tokens are allowed here."""
        self._join()
        self._tell()
        with LIBRARY_CALL:
            return satisfied(self._matcher)

    def close(self) -> None:
        """Tell the constraint what this choice used of it. Does not wait for a mask under way."""
        if not self._is_closed:
            self._is_closed = True
            self._on_close(self._num_tokens, self._failure is None)

    def _order(self) -> None:
        self._is_deferred = False
        self._busy.acquire()
        self._threads.put(self._compute)

    def _is_possible(self, token_id: int) -> bool:
        """Whether a token may come, as the mask would have it; where text is forced, that is the mask from here on."""
        self._tell_library()
        is_possible = False
        with LIBRARY_CALL:
            self._forced.extend(self._matcher.compute_ff_tokens())
            # Of tokens that are no text the library would speak otherwise than its masks do.
            if not self._forced and self._table.is_text(token_id):
                is_possible = self._matcher.validate_tokens([token_id]) == 1
            has_failed = self._matcher.is_error()
        if has_failed:
            raise self._library_failure("no token can follow")
        if self._forced:
            self._leave_only(self._forced[0])
            self._is_fresh = True
        return is_possible

    def _compute(self) -> None:
        """The job of a mask thread. The library answers a failure of its own with a mask of end tokens: ask it."""
        begin = time.thread_time()
        self._job = (time.pthread_getcpuclockid(threading.get_ident()), begin)
        try:
            self._tell_library()
            with LIBRARY_CALL:
                self._forced.extend(self._matcher.compute_ff_tokens())
                if not self._forced:
                    self._matcher.unsafe_compute_mask_ptr(self._address, self._num_bytes)
                    # Here, since the mask is still in this core's cache.
                    self._held_many = 4 * int(np.count_nonzero(self._bits)) > len(self._bits)
                has_failed = self._matcher.is_error()
            cost_s = self._cost_s = time.thread_time() - begin
            self._account(cost_s)
            self._budget.spent_s += cost_s
            if has_failed:
                self._fail(self._library_failure("no token can follow"))
            if self._forced:
                self._leave_only(self._forced[0])
            self._is_fresh = True
        except ConstraintFailed as failure:
            self._failure = failure
        finally:
            self._job = None
            self._busy.release()

    def _comes_soon(self) -> bool:
        """Whether a mask that is not there has only just begun, or is about to."""
        if (job := self._job) is None:
            return self._threads.help()
        clock_id, begin_s = job
        return time.clock_gettime(clock_id) - begin_s < limits.BEHIND_WAIT_S

    def _tell(self) -> None:
        """Tell the library of the tokens so far, on the thread that asks. Raises ConstraintFailed."""
        if self._unheard:
            begin = time.thread_time()
            self._tell_library()
            self._budget.spent_s += time.thread_time() - begin

    def _tell_library(self) -> None:
        if not self._unheard:
            return
        with LIBRARY_CALL:
            is_accepted = self._matcher.consume_tokens(self._unheard)
        self._unheard.clear()
        if not is_accepted:
            self._fail(self._library_failure("the constraint does not admit the token"))

    def _leave_only(self, token_id: int) -> None:
        """Write the mask of one token."""
        self._held_many = False
        self._bits.fill(0)
        self._bits[token_id >> 5] = 1 << (token_id & 31)

    def _account(self, cost_s: float) -> None:
        """Fail where this mask, or all of them with it, took more than may be."""
        if failure := self._budget.excess(cost_s, self._num_tokens):
            self._fail(failure)

    def _join(self) -> None:
        if self._is_deferred:
            self._order()
        if self._busy.locked():
            with self._busy:
                pass
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, failure: ConstraintFailed) -> None:
        self._failure = failure
        raise failure

    def _library_failure(self, fallback: str) -> ConstraintFailed:
        return ConstraintFailed(f"the constraint cannot go on: {meaning(self._matcher.get_error() or fallback)}")
