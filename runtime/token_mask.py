"""What the engine asks of a constraint on a choice's text: which tokens may come next, and whether it may end here.

The implementation is ``runtime.constraint``'s; tests script their own. Knows no grammar, no schema and no text. Masks
are computed on other threads, so that a costly one delays its own choice only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MaskArray = NDArray[np.uint32]
"""A bit per token, [ceil(V / 32)], lowest bit first: set where the token may come next."""
WORD_BITS = 32


def is_allowed(mask: MaskArray, token_id: int) -> bool:
    """Whether a mask holds a token; False for an id beyond it."""
    word = token_id // WORD_BITS
    return word < len(mask) and bool(int(mask[word]) >> token_id % WORD_BITS & 1)


class Matcher(Protocol):
    """One choice's way through its constraint. Used by one thread; each call but ``close`` may raise ConstraintFailed.

    The way is: ``start``, ``wait`` until it is True, ``mask`` and ``commit``, and so on for each token; at the end
    ``close``. Between ``start`` and a ``wait`` that is True nothing else but ``close`` is called: the other thread has
    the state to itself. ``admits`` alone may come before, and where it is True ``commit`` may be next. A mask never
    holds an end token unless the text satisfies the constraint there, and holds end tokens alone where it cannot go on.
    The token that ends a choice is not committed.
    """

    def start(self, *, lazily: bool = False) -> None:
        """Have the mask of the next token computed, on another thread; returns at once. Again after each ``commit``.

        ``lazily``: whoever draws knows a token that will do if it may come, and asks ``admits`` first. Where it likely
        may, no mask is begun until that, or ``wait``, asks for it.
        """
        ...

    @property
    def is_deferred(self) -> bool:
        """True from such a ``start`` on until either was asked."""
        ...

    def admits(self, token_id: int) -> bool:
        """True where the mask, which nobody computed, would hold this token. False tells nothing: wait for the mask."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for that mask; False if it is not there in time. 0 asks, and waits only for a turn, which comes soon.

        Raises ConstraintFailed once the mask has cost more than its budget: no caller counts its time.
        """
        ...

    def mask(self) -> MaskArray:
        """The mask of the next token, valid until ``commit`` and not to be written to."""
        ...

    def sole(self) -> int | None:
        """The only token of that mask, where it is known to hold one alone; None tells nothing."""
        ...

    def commit(self, token_id: int) -> None:
        """Go on by a token of the mask."""
        ...

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could be committed one after the other. Moves nothing."""
        ...

    def forced(self) -> list[int]:
        """Tokens of which each is the only one that may come; empty where there is a choice. Moves nothing."""
        ...

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        """After how many bytes of a token of the mask the text satisfies the constraint, 0 to all. Moves nothing."""
        ...

    @property
    def may_end(self) -> bool:
        """True where the text so far satisfies the constraint."""
        ...

    def close(self) -> None:
        """Give back what it holds, at any moment; nothing else is called afterwards. Idempotent, never raises."""
        ...


class Constraint(Protocol):
    """A compiled constraint, shared by all choices and requests that ask for the same. Safe on any thread."""

    def matcher(self) -> Matcher:
        """A way from the start of the text. Raises ConstraintFailed."""
        ...
