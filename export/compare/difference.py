"""What a comparison finds, as values that are printed or sent on as they are. Knows no package."""

from __future__ import annotations

import msgspec


class Difference(msgspec.Struct, frozen=True):
    """One thing that the packages say differently; ``""`` stands for what a side does not have."""

    section: str
    what: str
    a: str
    b: str


class WeightDifference(msgspec.Struct, frozen=True):
    """A weight that differs, as the float32 values that both graphs compute with.

    ``relative`` is the Frobenius norm of the difference over that of ``a``'s values, ``largest`` the largest absolute
    difference of two values; both are None where the shapes differ, or one side has no such weight.
    """

    graph: str
    name: str
    a: str
    b: str
    relative: float | None
    largest: float | None


class PackageDifference(msgspec.Struct, frozen=True):
    """All that differs; ``num_equal_weights`` counts the weights of graphs that both have whose values are the same."""

    differences: tuple[Difference, ...]
    weights: tuple[WeightDifference, ...]
    num_equal_weights: int

    @property
    def is_empty(self) -> bool:
        """True when the packages hold the same."""
        return not self.differences and not self.weights
