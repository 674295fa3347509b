"""The prefix index finds the longest prefix, exactly, and forgets what it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
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
    assert index._roots == {}
    assert index._ends == {}


class Counting(list[int]):
    """A list that counts the tokens that are read of it."""

    num_read = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        Counting.num_read += len(found) if isinstance(place, slice) else 1
        return found


@pytest.mark.parametrize("num_slots", [1, 16, 256])
def test_shared_tokens_are_compared_once_however_many_slots_share_them(num_slots: int) -> None:
    shared = list(range(2000))
    index = PrefixIndex()
    for slot in range(num_slots):
        text = [*shared, 5000 + slot, *range(50)]
        index.put(slot, TokenPrefix(text, len(text)))
    Counting.num_read = 0
    wanted = Counting([*shared, 4000, 1])
    assert index.longest(TokenPrefix(wanted, len(wanted))) == [(slot, 2000) for slot in range(num_slots)]
    assert Counting.num_read <= len(wanted) + 300  # each token once, and one piece again to find where they part


def searched(entries: dict[int, list[int]], query: Sequence[int]) -> list[tuple[int, int]]:
    """The rule: every entry is compared, the longest count, a block is the least."""

    def common(tokens: list[int]) -> int:
        pairs = enumerate(zip(tokens, query, strict=False))
        return next((place for place, (a, b) in pairs if a != b), min(len(tokens), len(query)))

    lengths = {slot: common(tokens) for slot, tokens in entries.items()}
    best = max(lengths.values(), default=0)
    return [(slot, best) for slot in sorted(lengths) if lengths[slot] == best] if best >= BLOCK_TOKENS else []


TEXTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), min_size=1, max_size=4).map(
    lambda pieces: [token for start, count in pieces for token in range(start, start + count)]
)


@settings(max_examples=150)
@given(puts=st.lists(st.tuples(st.integers(0, 5), TEXTS), max_size=14), query=TEXTS)
def test_equals_a_search_of_every_entry_after_any_changes(puts: list[tuple[int, list[int]]], query: list[int]) -> None:
    index, held = PrefixIndex(), dict[int, list[int]]()
    for slot, tokens in puts:
        index.put(slot, whole(tokens))
        held[slot] = tokens
        assert index.longest(whole(query)) == searched(held, query)
        assert index.longest(whole(tokens)) == searched(held, tokens)
        assert num_nodes(index) <= 2 * len(held) + 1
    for slot in held:
        index.put(slot, NOTHING)
    assert index._roots == {}


def num_nodes(index: PrefixIndex) -> int:
    """Nodes of all trees, whose slots and ends must fit together."""
    count, todo = 0, [*index._roots.values()]
    while todo:
        node = todo.pop()
        count += 1
        todo += node.children.values()
        ends = {slot for slot, (_, end) in index._ends.items() if end is node}
        assert node.slots == ends.union(*(child.slots for child in node.children.values()))
        assert all(child.parent is node and child.start == node.stop for child in node.children.values())
    return count


@given(st.lists(st.lists(st.integers(0, 1), max_size=70), max_size=12), st.lists(st.integers(0, 1), max_size=70))
def test_equals_a_search_of_every_entry(entries: list[list[int]], query: list[int]) -> None:
    index = PrefixIndex()
    for slot, tokens in enumerate(entries):
        index.put(slot, whole(tokens))

    assert index.longest(whole(query)) == searched(dict(enumerate(entries)), query)
