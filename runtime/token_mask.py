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


class Matcher(Protocol):
    """One choice's way through its constraint. Used by one thread; each call may raise ConstraintFailed.

    The way is: ``start``, then for each token ``mask`` and ``commit``, and at the end ``close``. A mask never holds
    an end token unless the text satisfies the constraint there, and holds end tokens alone where it cannot go on.
    """

    def start(self) -> None:
        """Have the mask of the next token computed, on another thread; returns at once. Again after each ``commit``."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for that mask; False if it is not there in time. 0 asks without waiting."""
        ...

    def mask(self) -> MaskArray:
        """The mask of the next token, valid until ``commit``. Only after ``wait`` was True."""
        ...

    def commit(self, token_id: int) -> None:
        """Go on by a token of the mask; an end token ends the way."""
        ...

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could be committed one after the other. Moves nothing."""
        ...

    def forced(self) -> list[int]:
        """Tokens of which each is the only one that may come; empty where there is a choice. Moves nothing."""
        ...

    @property
    def may_end(self) -> bool:
        """True where the text so far satisfies the constraint."""
        ...

    def close(self) -> None:
        """Give back what it holds; nothing else is called afterwards. Idempotent, never raises."""
        ...


class Constraint(Protocol):
    """A compiled constraint, shared by all choices and requests that ask for the same. Safe on any thread."""

    def matcher(self) -> Matcher:
        """A way from the start of the text. Raises ConstraintFailed."""
        ...
