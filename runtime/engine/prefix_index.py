"""Which slots share the longest prefix with a prompt. Exact, and no slower where many slots share much.

A tree per salt: a node stands for the tokens that all slots below it have in common and no others do, so a lookup
compares a prompt with each shared token once, however many slots share it. There are fewer than two nodes per slot.
Knows slot numbers and token ids; knows nothing of caches or sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.engine.token_prefix import BLOCK_TOKENS, TokenPrefix, first_difference


class _Node:
    """The tokens ``start`` to ``stop`` of ``token_ids``, a list of which some slot's prefix is the beginning.

    ``slots`` are those whose prefix comes here at all, at the node or below it. ``children`` are found by their first
    token.
    """

    __slots__ = ("children", "parent", "slots", "start", "stop", "token_ids")

    def __init__(self, token_ids: Sequence[int], start: int, stop: int, parent: _Node | None) -> None:
        self.token_ids, self.start, self.stop, self.parent = token_ids, start, stop, parent
        self.children: dict[int, _Node] = {}
        self.slots: set[int] = set()

    def attach(self, child: _Node) -> None:
        """Make ``child`` one of the children."""
        self.children[child.token_ids[child.start]] = child
        child.parent = self

    def split(self, place: int) -> _Node:
        """A node of the tokens up to ``place``, between this one and its parent."""
        upper = _Node(self.token_ids, self.start, place, self.parent)
        upper.slots = set(self.slots)
        if self.parent is not None:
            self.parent.attach(upper)
        self.start = place
        upper.attach(self)
        return upper


class PrefixIndex:
    """Maps beginnings of texts to the slots that hold them."""

    def __init__(self) -> None:
        self._roots: dict[str, _Node] = {}
        self._ends: dict[int, tuple[str, _Node]] = {}  # where each slot's prefix ends

    def put(self, slot: int, prefix: TokenPrefix) -> None:
        """Say that a slot now holds the rows of ``prefix``, whatever it held before."""
        self._remove(slot)
        if len(prefix) < BLOCK_TOKENS:
            return
        root = self._roots.setdefault(prefix.salt, _Node((), 0, 0, None))
        root.slots.add(slot)
        node, length = _walk(root, prefix)
        if length < node.stop:
            node = node.split(length)
        if length < len(prefix):
            leaf = _Node(prefix.token_ids, length, len(prefix), node)
            node.attach(leaf)
            node = leaf
        self._ends[slot] = prefix.salt, node
        above: _Node | None = node
        while above is not None:
            above.slots.add(slot)
            above = above.parent

    def longest(self, wanted: TokenPrefix) -> list[tuple[int, int]]:
        """Slots with the longest common prefix as (slot, number of equal tokens); empty when none shares a block."""
        root = self._roots.get(wanted.salt)
        if root is None:
            return []
        node, length = _walk(root, wanted)
        return [(slot, length) for slot in sorted(node.slots)] if length >= BLOCK_TOKENS else []

    def _remove(self, slot: int) -> None:
        salt, node = self._ends.pop(slot, ("", None))
        while node is not None:
            node.slots.discard(slot)
            parent = node.parent
            if parent is None:
                if not node.slots:
                    del self._roots[salt]
            elif not node.slots:
                del parent.children[node.token_ids[node.start]]
            elif len(node.children) == 1:
                self._merge(node, parent)
            node = parent

    def _merge(self, node: _Node, parent: _Node) -> None:
        """Take out a node at which no slot ends and no way parts: its only child's list holds its tokens as well."""
        (child,) = node.children.values()
        if len(child.slots) == len(node.slots):
            child.start = node.start
            parent.attach(child)


def _walk(root: _Node, prefix: TokenPrefix) -> tuple[_Node, int]:
    """The deepest node that shares a token of its own with ``prefix``, and how many tokens are shared by then."""
    node, length, tokens = root, 0, prefix.token_ids
    while length == node.stop and length < len(prefix):
        child = node.children.get(tokens[length])
        if child is None:
            break
        node = child
        length = first_difference(tokens, node.token_ids, length + 1, min(node.stop, len(prefix)))
    return node, length
