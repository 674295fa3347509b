"""What a choice's masks may take of the threads that compute them, and the words for one that took more.

Knows no matcher and no clock: whoever computes says what it took.
"""

from __future__ import annotations

from runtime.constraint import limits
from runtime.errors import ConstraintFailed


class MaskBudget:
    """One choice's account, in seconds of computing."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def excess(self, cost_s: float, num_tokens: int) -> ConstraintFailed | None:
        """Why ``cost_s`` for the next mask, or all masks so far with it, is too much after ``num_tokens`` tokens."""
        if cost_s > limits.MAX_MASK_S:
            return _too_slow(f"{cost_s * 1e3:.0f} ms for one token; {limits.MAX_MASK_S * 1e3:.0f}")
        together_s = self.spent_s + cost_s
        budget_s = limits.MASK_CREDIT_S + limits.MASK_CREDIT_PER_TOKEN_S * num_tokens
        if together_s > budget_s:
            return _too_slow(f"{together_s:.2f} s for {num_tokens} tokens; {budget_s:.2f}")
        return None


def _too_slow(needed_and_allowed: str) -> ConstraintFailed:
    cause = "it can be read in too many ways"
    return ConstraintFailed(f"the constraint needed {needed_and_allowed} are allowed: {cause}")
