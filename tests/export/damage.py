"""Ways to damage a file: bytes changed near its beginning, and its end cut off."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Damage:
    """``changes`` are (place, new byte); ``kept`` is the share of the file that is left."""

    changes: list[tuple[int, int]]
    kept: float

    def done_to(self, content: bytes) -> bytes:
        damaged = bytearray(content)
        for place, byte in self.changes:
            damaged[place] = byte
        return bytes(damaged[: round(len(damaged) * self.kept)])


def damage_within(num_bytes: int) -> st.SearchStrategy[Damage]:
    """One to four bytes changed among the first ``num_bytes`` + 1; half of the files are cut."""
    change = st.tuples(st.integers(0, num_bytes), st.integers(0, 255))
    kept = st.one_of(st.just(1.0), st.floats(0, 1))
    return st.builds(Damage, st.lists(change, min_size=1, max_size=4), kept)
