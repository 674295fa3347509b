"""The prefix index finds the longest prefix, exactly, and forgets what it is told to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.engine.prefix_index import BLOCK_TOKENS, PrefixIndex


def test_the_longest_common_prefix_wins() -> None:
    index = PrefixIndex()
    index.put(0, list(range(40)))
    index.put(1, [*range(30), 99, 98])
    index.put(2, [7, *range(40)])
    assert index.longest(list(range(35))) == [(0, 35)]
    assert index.longest([*range(30), 99, 1]) == [(1, 31)]
    assert index.longest([5] * 40) == []


def test_ties_are_all_named_and_short_prefixes_are_not_found() -> None:
    index = PrefixIndex()
    index.put(3, list(range(BLOCK_TOKENS)))
    index.put(1, list(range(BLOCK_TOKENS)))
    assert index.longest(list(range(50))) == [(1, BLOCK_TOKENS), (3, BLOCK_TOKENS)]
    assert index.longest(list(range(BLOCK_TOKENS - 1))) == []


def test_putting_again_replaces_and_removing_forgets() -> None:
    index = PrefixIndex()
    index.put(0, list(range(40)))
    index.put(0, list(range(100, 140)))
    assert index.longest(list(range(40))) == []
    index.remove(0)
    index.remove(0)
    assert (index.longest(list(range(100, 140))), len(index)) == ([], 0)
    assert index._slots_by_chain == {}


@given(st.lists(st.lists(st.integers(0, 1), max_size=70), max_size=12), st.lists(st.integers(0, 1), max_size=70))
def test_equals_a_search_of_every_entry(entries: list[list[int]], query: list[int]) -> None:
    index = PrefixIndex()
    for slot, tokens in enumerate(entries):
        index.put(slot, tokens)

    def common(tokens: list[int]) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(tokens, query, strict=False)) if a != b), min(len(tokens), len(query))
        )

    # Whole blocks decide who is compared token by token: a slot that shares a further block always wins.
    lengths = {slot: common(tokens) for slot, tokens in enumerate(entries)}
    best = max(lengths.values(), default=0)
    found = index.longest(query)
    if best < BLOCK_TOKENS:
        assert found == []
    else:
        assert found == [(slot, best) for slot in sorted(lengths) if lengths[slot] == best]
