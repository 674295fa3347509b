"""What the table's slices must never show: masks are those of the library without any, for texts of every length."""

from __future__ import annotations

import random

import numpy as np
import pytest

from runtime.constraint.grammar import grammar_of
from runtime.constraint.spec import Json, Part, Pattern
from runtime.constraint.token_table import TokenTable
from runtime.constraint.trial import compiled
from runtime.constraint.vocabulary import Vocabulary

NUM_WALKS = 12


@pytest.fixture(scope="module")
def table() -> TokenTable:
    """Every byte, words of 1 to 40 characters, and such with quotes, escapes, line ends and halves of a character."""
    drawn = random.Random(0)
    words = {
        "".join(drawn.choice("abcdé€😀 \t\n\x7f\\\"'{},:") for _ in range(length)).encode()[: drawn.choice([None, -1])]
        for length in range(1, 41)
        for _ in range(12)
    } | {drawn.choice([b"a", b"ab", b" "]) * length for length in range(1, 41)}
    spelled = [bytes([byte]) for byte in range(256)]
    spelled += sorted(word for word in words if len(word) > 1)
    return TokenTable(
        Vocabulary(
            token_bytes=(*spelled, b"", b"<end>"),
            control_ids={"<end>": len(spelled) + 1},
            end_ids=(len(spelled) + 1,),
            encode=None,
        )
    )


@pytest.mark.parametrize(
    "part",
    [
        *(Json(f'{{"type":"string","maxLength":{most}}}') for most in (0, 1, 9, 10, 11, 13, 14, 15, 29, 31, 45)),
        Json('{"type":"string","minLength":12,"maxLength":16}'),
        Json('{"type":"array","items":{"type":["string","integer","null"],"maxLength":18},"maxItems":4}'),
        Json('{"type":"string","pattern":"^[a-d ]{3,20}$"}'),
        Json('{"type":"object"}'),
        Pattern('[^"]{0,17}'),
    ],
    ids=lambda part: str(part)[-45:-2],
)
def test_masks_are_those_without_slices(table: TokenTable, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = grammar_of(part, {})
    sliced = compiled(table, grammar)
    monkeypatch.setattr(table, "library", table.library.with_slices([]))
    whole = compiled(table, grammar)
    for seed in range(NUM_WALKS):
        ours, theirs, drawn = sliced.deep_copy(), whole.deep_copy(), random.Random(seed)
        for _ in range(40):
            mask = ours.compute_bitmask()
            assert mask == theirs.compute_bitmask()
            token_ids = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
            shortish = [token_id for token_id in token_ids if len(table.token_bytes[token_id]) < 4]
            token_id = drawn.choice(drawn.choice([shortish or token_ids, token_ids]))
            if token_id in table.end_ids:
                break
            assert ours.consume_token(token_id)
            assert theirs.consume_token(token_id)


def test_text_is_what_stands_for_bytes(table: TokenTable) -> None:
    (end_id,) = table.end_ids
    assert table.token_bytes[end_id - 1] == b""
    assert [table.is_text(token_id) for token_id in (97, end_id - 2, end_id - 1, end_id, end_id + 1)] == [
        True, True, False, False, False
    ]  # fmt: skip
