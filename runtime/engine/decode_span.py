"""How many slots a decode call covers, and when it would cover fewer if sequences moved. Numbers only.

Three kinds of sessions (``runtime.session.session.SessionInfo``): a call covers the named slots alone, or what lies
between the lowest and the highest, or so many from the first one on. Knows no sequences and no contents of slots.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from runtime.session.session import SessionInfo

PATIENCE_STEPS = 16
"""Steps for which a call must have been larger than needed before anything moves: where few slots more cost little,
moving for every sequence that comes and goes costs more than it saves."""


@dataclass(frozen=True, slots=True)
class DecodeSpan:
    """``buckets`` and ``any_slots`` are the session's."""

    buckets: tuple[int, ...]
    any_slots: bool

    @classmethod
    def of(cls, info: SessionInfo) -> DecodeSpan:
        """The session's."""
        return cls(info.decode_buckets, info.any_slots)

    @property
    def keeps_near(self) -> bool:
        """Whether a call covers what lies between rows, wherever they are."""
        return not self.buckets and not self.any_slots

    def bucket(self, num_slots: int) -> int:
        """The smallest bucket with so many slots."""
        return next(size for size in self.buckets if size >= num_slots)

    def room(self, owned: Collection[int]) -> int:
        """The bucket that the slots ``owned`` and one more fit into, if that one lies as low as it can."""
        return self.bucket(max(max(owned, default=-1) + 1, len(owned) + 1))

    def smaller(self, decoding: Collection[int], free: Collection[int]) -> int | None:
        """The smallest bucket that the slots ``decoding`` would fit into if those beyond moved to slots of ``free``.

        None where that is the one that they are in.
        """
        now = self.bucket(max(decoding, default=0) + 1)
        for size in self.buckets:
            if size >= now:
                return None
            if sum(slot >= size for slot in decoding) <= sum(slot < size for slot in free):
                return size
        return None
