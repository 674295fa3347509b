"""Sets of characters, as sorted disjoint ranges of code points, both ends included.

Knows the classes that ECMA-262 names; knows no syntax.
"""

from __future__ import annotations

from collections.abc import Iterable

Characters = tuple[tuple[int, int], ...]

LAST = 0x10FFFF
EVERY: Characters = ((0, 0xD7FF), (0xE000, LAST))
DIGIT: Characters = ((0x30, 0x39),)
WORD: Characters = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACE: Characters = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
)
"""WhiteSpace and LineTerminator of ECMA-262, which is what its ``\\s`` matches."""
LINE_END: Characters = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
WRITABLE: Characters = ((0x08, 0x0A), (0x0C, 0x0D), (0x20, 0x7E), (0x80, 0xD7FF), (0xE000, LAST))
"""What a string can hold without ``\\u`` escapes, which the library's options leave out, and without DELETE."""


def united(sets: Iterable[Characters]) -> Characters:
    """The characters in any of the sets."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(span for characters in sets for span in characters):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def common(one: Characters, other: Characters) -> Characters:
    """The characters in both sets."""
    spans, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        low, high = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if low <= high:
            spans.append((low, high))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(spans)


def others(characters: Characters) -> Characters:
    """The characters outside the set."""
    spans, start = [], 0
    for low, high in characters:
        if start < low:
            spans.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        spans.append((start, LAST))
    return common(tuple(spans), EVERY)
