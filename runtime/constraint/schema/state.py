"""What a place in a text has to satisfy: schemas, each to be met or to be failed, as a set of numbers.

Schema number n stands for 2n where it has to be met, 2n + 1 where it has to be failed. Sets that are equal are one
state, so a schema that refers to itself leads to finitely many. Knows no keyword.
"""

from __future__ import annotations

State = frozenset[int]

ANYTHING: State = frozenset()
NOTHING: State = frozenset({-1})


def both(*states: State) -> State:
    """What satisfies all of the states."""
    joined = frozenset[int]().union(*states)
    return NOTHING if -1 in joined or any(literal ^ 1 in joined for literal in joined if not literal & 1) else joined
