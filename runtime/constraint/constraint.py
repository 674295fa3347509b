"""A compiled constraint: where each choice's matcher comes from, and how it stays fresh.

A new matcher is a copy, which costs a microsecond; but copies share their lexer, which keeps every state that it ever
saw and refuses to work when there are too many. So after many tokens, or a failure, the constraint is compiled anew.
Knows no spec; whoever compiled it says how to do that again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import llguidance

from runtime.constraint import limits
from runtime.constraint.library_call import LIBRARY_CALL
from runtime.constraint.mask_threads import MaskThreads
from runtime.constraint.matcher import GrammarMatcher
from runtime.constraint.token_table import TokenTable
from runtime.errors import ConstraintFailed


class CompiledConstraint:
    """The implementation of ``runtime.token_mask.Constraint``.

    ``origin`` is a matcher at the start of the text, never moved, of ``num_bytes``. ``renew`` has another one made, in
    its own time, and gives it to ``refresh``.
    """

    def __init__(
        self,
        origin: llguidance.LLMatcher,
        *,
        num_bytes: int,
        table: TokenTable,
        threads: MaskThreads,
        renew: Callable[[CompiledConstraint], None],
    ) -> None:
        self.num_bytes = num_bytes
        self._origin = origin
        self._table = table
        self._threads = threads
        self._renew = renew
        self._lock = threading.Lock()
        self._num_tokens = 0
        self._is_renewing = False

    def matcher(self, after: bytes = b"") -> GrammarMatcher:
        """A way from the start of the text, or from behind these bytes of it. Raises ConstraintFailed."""
        library = self._copy()
        token_ids = self._table.spelled(after)
        with LIBRARY_CALL:
            is_spelled = b"".join([self._table.token_bytes[token_id] for token_id in token_ids]) == after
            if not is_spelled or library.try_consume_tokens(token_ids) < len(token_ids):
                raise ConstraintFailed("the text does not begin as the constraint demands")
        return GrammarMatcher(library, table=self._table, threads=self._threads, on_close=self._account)

    def refresh(self, origin: llguidance.LLMatcher) -> None:
        """Take copies of this matcher from now on."""
        with self._lock:
            self._origin, self._num_tokens, self._is_renewing = origin, 0, False

    def _copy(self) -> llguidance.LLMatcher:
        with self._lock, LIBRARY_CALL:
            copy = self._origin.deep_copy()
        if copy.is_error():
            raise ConstraintFailed("the constraint cannot be used any more")
        return copy

    def _account(self, num_tokens: int, is_healthy: bool) -> None:
        with self._lock:
            self._num_tokens += num_tokens
            is_due = not is_healthy or self._num_tokens >= limits.RECYCLE_TOKENS
            if not is_due or self._is_renewing:
                return
            self._is_renewing = True
        self._renew(self)
