"""The calls that bring a session to every golden row that it has room for: all that a graph for GPUs can get wrong.

A long text in the last slot, its runs of rows by prefill and by decode in turn; short texts in neighbouring slots,
each prompt in two chunks, decoded together at different positions and in two ranges; a slot moved in two pieces. Two
more scripts compare a session with itself: a slot with its copy, and a slot's last rows by prefill and by decode.
Knows no limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.package.golden import GoldenRows
from runtime.session.session import FloatArray, Int64Array, Session, decode_logits

_MAX_SLOTS = 4
"""Slots that the script uses, of those that there are."""
_MOVED_ROWS = 4
"""Rows that are decoded after a copy."""
_LAST_ROWS, _LAST_PROMPT = 4, 12
"""Rows at the end of a slot that are decoded, and tokens of the prefill that computes them first."""

Rows = tuple[list[int], FloatArray]
"""Indices of golden rows, and what a session computed in their places, float32 [n, V], valid until the next call."""


@dataclass(frozen=True, slots=True)
class _Text:
    """A text's ids int64, the positions with a row that a slot has room for, and the index of the first such row."""

    ids: Int64Array
    positions: list[int]
    row: int


def golden_calls(session: Session, golden: GoldenRows) -> Iterator[Rows]:
    """Run the script. The slots' contents are void afterwards. Rows that a slot has no room for are left out."""
    num_slots, capacity = min(_MAX_SLOTS, session.info.num_slots), session.info.max_model_len
    texts = []
    for number, ids in enumerate(golden.texts):
        positions = [position for position in golden.positions(number) if position < capacity]
        texts.append(_Text(ids, positions, golden.first_row(number)))
    yield from _long_text(session, texts[0], slot=num_slots - 1)
    short = [text for text in texts[1:] if text.positions]
    for first in range(0, len(short), num_slots):
        yield from _together(session, short[first : first + num_slots], moves=first == 0 and num_slots > 1)


def last_rows(session: Session, golden: GoldenRows) -> tuple[FloatArray, FloatArray]:
    """The last rows of the last slot, by prefill and by decode, float32 [n, V] each: they must agree.

    What lies before the few tokens of the prefill stays as it is; both see the same.
    """
    info = session.info
    length = min(_LAST_PROMPT, info.max_model_len)
    count = min(_LAST_ROWS, length)
    slot, start = min(_MAX_SLOTS, info.num_slots) - 1, info.max_model_len - length
    tail = np.resize(golden.texts[-1], length)
    prefilled = session.prefill(slot, tail, start, count).copy()
    decoded = [_after(session, slot, tail[place], start + place).copy() for place in range(length - count, length)]
    return prefilled, np.concatenate(decoded)


def moved_rows(session: Session, golden: GoldenRows) -> tuple[FloatArray, FloatArray] | None:
    """Rows of the first slot and of its copy, made in two pieces, float32 [n, V] each: they must be equal.

    A row that the copy lacks may change little, and less than rounding does. None where there is one slot.
    """
    text = golden.texts[-1][: session.info.max_model_len]
    held = len(text) - min(_MOVED_ROWS, len(text) // 2)
    if session.info.num_slots < 2 or not held:
        return None
    session.prefill(0, text[:held], 0, 0)
    session.copy_slot(0, 1, held // 2)
    session.copy_slot(0, 1, held, held // 2)
    rows = [[_after(session, slot, text[place], place).copy() for place in range(held, len(text))] for slot in (0, 1)]
    return np.concatenate(rows[0]), np.concatenate(rows[1])


def _long_text(session: Session, text: _Text, slot: int) -> Iterator[Rows]:
    """The first run of rows by prefill, the second by decode steps, and so on."""
    row, held = text.row, 0
    for number, run in enumerate(_runs(text.positions)):
        first, end = run[0], run[-1] + 1
        if number % 2:
            session.prefill(slot, text.ids[held:first], held, 0)
            for index, position in enumerate(run):
                yield [row + index], _after(session, slot, text.ids[position], position)
        else:
            yield list(range(row, row + len(run))), session.prefill(slot, text.ids[held:end], held, len(run))
        row, held = row + len(run), end


def _together(session: Session, texts: Sequence[_Text], *, moves: bool) -> Iterator[Rows]:
    """Text i in slot i, decoded together as far as each has rows; ``moves`` then moves the first slot."""
    for slot, text in enumerate(texts):
        head = text.positions[0]
        for begin, end in itertools.pairwise(sorted({0, head // 2, head})):
            session.prefill(slot, text.ids[begin:end], begin, 0)
    steps = min(len(text.positions) for text in texts)
    for step in range(steps):
        cuts = {1} if step % 4 == 3 else set[int]()  # one step in four as two ranges of slots
        for first, end in itertools.pairwise(sorted({0, len(texts)} | cuts)):
            places = [(text, text.positions[step]) for text in texts[first:end]]
            ids = np.array([text.ids[position] for text, position in places])
            logits = decode_logits(session, first, ids, np.array([position for _, position in places]))
            yield [text.row + step for text, _ in places], logits
    if moves:
        yield from _moved(session, texts[0], steps)


def _moved(session: Session, text: _Text, steps: int) -> Iterator[Rows]:
    """Slot 0, which holds ``text`` and ``steps`` of its rows, copied in two pieces to slot 1, which goes on with it."""
    held = text.positions[0] + steps
    session.copy_slot(0, 1, held // 2)
    session.copy_slot(0, 1, held, held // 2)
    for index, position in enumerate(text.positions[steps:], steps):
        yield [text.row + index], _after(session, 1, text.ids[position], position)


def _after(session: Session, slot: int, token_id: np.int64, position: int) -> FloatArray:
    """Logits [1, V] of what comes after a token, decoded alone."""
    return decode_logits(session, slot, np.array([token_id]), np.array([position]))


def _runs(positions: Sequence[int]) -> Iterator[list[int]]:
    """Ascending positions, cut where they leave a gap."""
    run: list[int] = []
    for position in positions:
        if run and position != run[-1] + 1:
            yield run
            run = []
        run.append(position)
    if run:
        yield run
