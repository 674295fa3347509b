"""A bound on the tokens of a reasoning section, around whatever constraint the whole answer has.

When the budget is spent, the section's end is the only thing that may come, token by token. Owns the count, and where
the section begins and ends in the text; the constraint inside says what may come otherwise. Knows no grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.token_mask import Constraint, MaskArray, Matcher


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """At most ``num_tokens`` between a mark of ``begins`` and ``end``, which ``other_ends`` stand for too.

    ``is_open``: the section begins with the answer, its mark stands in the prompt. Other answers have a section if they
    begin with a mark, white space aside.
    """

    num_tokens: int
    begins: tuple[str, ...]
    end: str
    other_ends: tuple[str, ...] = ()
    is_open: bool = False


class BudgetedConstraint:
    """A ``runtime.token_mask.Constraint``: the constraint inside, under a budget. ``end_ids`` are the end's tokens."""

    def __init__(
        self,
        inside: Constraint,
        budget: ThinkingBudget,
        *,
        end_ids: Sequence[int],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._inside = inside
        self._budget = budget
        self._end_ids = tuple(end_ids)
        self._token_bytes = token_bytes

    def matcher(self) -> Matcher:
        """A way from the start of the text. Raises ConstraintFailed."""
        return _BudgetedMatcher(self._inside.matcher(), self._budget, self._end_ids, self._token_bytes)


class _BudgetedMatcher:
    """See ``runtime.token_mask.Matcher``. ``_left`` is None outside a section."""

    def __init__(
        self, inside: Matcher, budget: ThinkingBudget, end_ids: tuple[int, ...], token_bytes: Callable[[int], bytes]
    ) -> None:
        self._inside = inside
        self._budget = budget
        self._end_ids = end_ids
        self._token_bytes = token_bytes
        self._begins = tuple(begin.encode() for begin in budget.begins)
        self._ends = tuple(end.encode() for end in (budget.end, *budget.other_ends))
        self._text = b""  # before a section all of it; within one, as much as may hold an end
        self._may_open = not budget.is_open
        self._left: int | None = None
        self._to_write: list[int] = []
        if budget.is_open:
            self._open()

    def start(self, *, lazily: bool = False) -> None:
        """As the constraint inside; an end that is being written needs its mask."""
        self._inside.start(lazily=lazily and not self._to_write)

    @property
    def is_deferred(self) -> bool:
        """As the constraint inside."""
        return self._inside.is_deferred

    def admits(self, token_id: int) -> bool:
        """As the constraint inside: within the end that is being written nothing is deferred."""
        return self._inside.admits(token_id)

    def wait(self, timeout_s: float) -> bool:
        """As the constraint inside."""
        return self._inside.wait(timeout_s)

    def mask(self) -> MaskArray:
        """[ceil(V / 32)]: the one token of the end that is due, or what the constraint inside allows."""
        mask = self._inside.mask()
        due = self._due(mask)
        if due is None:
            return mask
        only = np.zeros_like(mask)
        only[due >> 5] = 1 << (due & 31)
        return only

    def sole(self) -> int | None:
        """The one token of the end that is due, or what the constraint inside says."""
        return self._due(self._inside.mask()) if self._to_write else self._inside.sole()

    def commit(self, token_id: int) -> None:
        """Go on by a token, and count it."""
        self._inside.commit(token_id)
        if self._to_write and token_id == self._to_write[0]:
            self._to_write.pop(0)
            if not self._to_write:
                self._left = None
        elif self._left is not None:
            self._count(token_id)
        elif self._may_open:
            self._look_for_begin(token_id)

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """A draft may use up the budget, not more."""
        if self._to_write or self._may_open:
            return 0
        within = token_ids if self._left is None else token_ids[: self._left]
        return self._inside.num_allowed(within)

    def forced(self) -> list[int]:
        """The end, where it is due."""
        if self._to_write:
            return list(self._to_write) if self._due(self._inside.mask()) is not None else []
        return [] if self._left is not None or self._may_open else self._inside.forced()

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        """As the constraint inside."""
        return self._inside.ends_within(token_id)

    @property
    def may_end(self) -> bool:
        """False within the end that is being written."""
        return not self._to_write and self._inside.may_end

    def close(self) -> None:
        """As the constraint inside."""
        self._inside.close()

    def _due(self, mask: MaskArray) -> int | None:
        """The next token of the end; None where none is due, or where a character must be completed first."""
        if not self._to_write:
            return None
        token_id = self._to_write[0]
        return token_id if mask[token_id >> 5] >> np.uint32(token_id & 31) & 1 else None

    def _open(self) -> None:
        self._may_open, self._text, self._left = False, b"", self._budget.num_tokens
        if self._left == 0:
            self._to_write = list(self._end_ids)

    def _count(self, token_id: int) -> None:
        self._text += self._token_bytes(token_id)
        if any(end in self._text for end in self._ends):
            self._left, self._to_write = None, []
            return
        self._text = self._text[-max(len(end) for end in self._ends) :]
        self._left = max(0, (self._left or 0) - 1)
        if self._left == 0 and not self._to_write:
            self._to_write = list(self._end_ids)

    def _look_for_begin(self, token_id: int) -> None:
        self._text += self._token_bytes(token_id)
        text = self._text.lstrip()
        if text.startswith(self._begins):
            self._open()
        else:
            self._may_open = any(begin.startswith(text) for begin in self._begins)
