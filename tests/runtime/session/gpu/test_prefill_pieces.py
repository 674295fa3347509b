"""Cutting a prefill: what it promises for every chunk that a slot can get, and the sizes that are compiled."""

from __future__ import annotations

import pytest

from runtime.package.graph_profiles import prefill_buckets
from runtime.session.gpu.prefill_pieces import Piece, prefill_pieces
from runtime.session.gpu.runner import Limits

EXACT = Limits(num_slots=1, capacity=64, prefill_tokens=16, max_logits=4, kv_itemsize=2)
PADDED = Limits(
    num_slots=1,
    capacity=64,
    prefill_tokens=16,
    max_logits=4,
    kv_itemsize=2,
    prefill_buckets=prefill_buckets(16),
    logits_buckets=(1, 4),
)


def test_the_sizes_that_are_compiled() -> None:
    assert prefill_buckets(512) == (1, 8, 64, 128, 256, 512)
    assert prefill_buckets(600) == (1, 8, 64, 128, 256, 512, 600)
    assert [prefill_buckets(most) for most in (1, 5, 8, 64, 65)] == [(1,), (1, 5), (1, 8), (1, 8, 64), (1, 8, 64, 65)]


@pytest.mark.parametrize("limits", [EXACT, PADDED], ids=["exact", "padded"])
def test_every_chunk_is_covered_once_within_the_slot(limits: Limits) -> None:
    for start in range(0, 64, 3):
        for count in range(1, 65 - start):
            for num_logits in {0, 1, min(3, count), min(5, count), count}:
                pieces = prefill_pieces(limits, count, start, num_logits)
                assert [piece.begin for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
                assert pieces[-1].end == count
                wanted = [token for piece in pieces for token in range(piece.end - piece.num_logits, piece.end)]
                assert wanted == list(range(count - num_logits, count))
                for piece in pieces:
                    assert start + piece.begin + piece.num_tokens <= 64
                    assert piece.end - piece.begin <= piece.num_tokens <= 16
                    assert piece.num_logits <= piece.padded_logits <= 4
                    if limits.prefill_buckets:
                        assert (piece.num_tokens in (1, 8, 16), piece.padded_logits in (1, 4)) == (True, True)
                    else:
                        assert piece.num_tokens == piece.end - piece.begin


def test_padding_is_as_little_as_may_be() -> None:
    assert prefill_pieces(PADDED, 21, 0, 1) == [Piece(0, 16, 16, 0, 1), Piece(16, 21, 8, 1, 1)]
    assert prefill_pieces(PADDED, 9, 48, 2) == [Piece(0, 9, 16, 2, 4)]
    # One row later 16 rows would end after the slot's last.
    assert prefill_pieces(PADDED, 9, 49, 2) == [Piece(0, 8, 8, 1, 1), Piece(8, 9, 1, 1, 1)]
    assert prefill_pieces(PADDED, 3, 61, 1) == [Piece(0, 1, 1, 0, 1), Piece(1, 2, 1, 0, 1), Piece(2, 3, 1, 1, 1)]


def test_where_sizes_are_free_the_odd_piece_goes_first() -> None:
    assert prefill_pieces(EXACT, 21, 0, 3) == [Piece(0, 5, 5, 0, 1), Piece(5, 21, 16, 3, 3)]
    assert prefill_pieces(EXACT, 6, 0, 6) == [Piece(0, 4, 4, 4, 4), Piece(4, 6, 2, 2, 2)]
