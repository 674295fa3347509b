"""Cuts a prefill into calls that a graph takes: at most so many tokens and logits, or one of a few compiled sizes.

Where sizes are buckets, a piece is padded to the smallest that holds it. Padding writes cache rows after the piece's
own, which is allowed as long as they are the slot's: near its end smaller buckets are taken. Numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.session.gpu.runner import Limits


@dataclass(frozen=True, slots=True)
class Piece:
    """One call: the tokens ``[begin, end)`` of the chunk, padded to ``num_tokens``.

    The last ``num_logits`` of them want logits; the graph is asked for ``padded_logits`` rows, at least one.
    """

    begin: int
    end: int
    num_tokens: int
    num_logits: int
    padded_logits: int


def prefill_pieces(limits: Limits, count: int, start: int, num_logits: int) -> list[Piece]:
    """Pieces of ``count`` tokens that go to a slot's rows from ``start`` on, the last ``num_logits`` with logits.

    ``start + count`` is within the slot's capacity.
    """
    pieces, begin, first_wanted = list[Piece](), 0, count - num_logits
    while begin < count:
        room = limits.capacity - start - begin
        width = _width(limits, count - begin, room)
        end = min(begin + width, count)
        wanted = end - max(begin, first_wanted)
        if wanted > limits.max_logits:
            end -= wanted - limits.max_logits
            wanted = limits.max_logits
            width = _width(limits, end - begin, room)
        wanted = max(0, wanted)
        padded = _smallest(limits.logits_buckets, wanted) if limits.logits_buckets else max(1, wanted)
        pieces.append(Piece(begin, end, width, wanted, padded))
        begin = end
    return pieces


def _width(limits: Limits, count: int, room: int) -> int:
    """Tokens of the next call when ``count`` are left and the slot has ``room`` rows."""
    if not limits.prefill_buckets:
        step = limits.prefill_tokens
        return count % step or step  # the odd one first, so that logits are most often in one full piece
    return _smallest([size for size in limits.prefill_buckets if size <= room], count)


def _smallest(buckets: Sequence[int], wanted: int) -> int:
    """The smallest bucket that holds ``wanted``, or the largest of all."""
    return next((size for size in buckets if size >= wanted), buckets[-1])
