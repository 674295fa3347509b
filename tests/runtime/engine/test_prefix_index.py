"""The prefix index finds the longest prefix, exactly, and forgets what it is told to."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.prefix_index import PrefixIndex
from runtime.engine.token_prefix import BLOCK_TOKENS, NOTHING, TokenPrefix


def whole(tokens: Iterable[int]) -> TokenPrefix:
    listed = list(tokens)
    return TokenPrefix(listed, len(listed))


def test_the_longest_common_prefix_wins() -> None:
    index = PrefixIndex()
    index.put(0, whole(range(40)))
    index.put(1, whole([*range(30), 99, 98]))
    index.put(2, whole([7, *range(40)]))
    assert index.longest(whole(range(35))) == [(0, 35)]
    assert index.longest(whole([*range(30), 99, 1])) == [(1, 31)]
    assert index.longest(whole([5] * 40)) == []


def test_ties_are_all_named_and_short_prefixes_are_not_found() -> None:
    index = PrefixIndex()
    index.put(3, whole(range(BLOCK_TOKENS)))
    index.put(1, whole(range(BLOCK_TOKENS)))
    assert index.longest(whole(range(50))) == [(1, BLOCK_TOKENS), (3, BLOCK_TOKENS)]
    assert index.longest(whole(range(BLOCK_TOKENS - 1))) == []


def test_a_list_that_grows_offers_no_more_than_before() -> None:
    index, tokens = PrefixIndex(), list(range(20))
    index.put(0, TokenPrefix(tokens, 18))
    tokens += range(20, 40)
    assert index.longest(whole(range(40))) == [(0, 18)]
    index.put(0, TokenPrefix(tokens, 33))
    assert index.longest(whole(range(40))) == [(0, 33)]
    assert index.longest(TokenPrefix(tokens, 32)) == [(0, 32)]
    index.put(0, TokenPrefix(tokens, 18))  # no block beyond the first is on offer, whatever the list holds
    index.put(1, whole(range(25)))
    assert index.longest(whole(range(40))) == [(1, 25)]


def test_putting_again_replaces_and_nothing_forgets() -> None:
    index = PrefixIndex()
    index.put(0, whole(range(40)))
    index.put(0, whole(range(100, 140)))
    assert index.longest(whole(range(40))) == []
    index.put(0, NOTHING)
    index.put(0, NOTHING)
    assert index.longest(whole(range(100, 140))) == []
    assert index._slots_by_link == {}
    assert index._prefixes == {}


@given(st.lists(st.lists(st.integers(0, 1), max_size=70), max_size=12), st.lists(st.integers(0, 1), max_size=70))
def test_equals_a_search_of_every_entry(entries: list[list[int]], query: list[int]) -> None:
    index = PrefixIndex()
    for slot, tokens in enumerate(entries):
        index.put(slot, whole(tokens))

    def common(tokens: list[int]) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(tokens, query, strict=False)) if a != b), min(len(tokens), len(query))
        )

    # Whole blocks decide who is compared token by token: a slot that shares a further block always wins.
    lengths = {slot: common(tokens) for slot, tokens in enumerate(entries)}
    best = max(lengths.values(), default=0)
    found = index.longest(whole(query))
    if best < BLOCK_TOKENS:
        assert found == []
    else:
        assert found == [(slot, best) for slot in sorted(lengths) if lengths[slot] == best]
