"""At the budget the section's end is all that may come, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.constraint.thinking_budget import BudgetedConstraint, ThinkingBudget
from runtime.token_mask import MaskArray, Matcher

END = b"</t>"
V = 256


class Bytes:
    """Tokens are bytes; any may come, but only whole UTF-8 characters may be followed by ASCII."""

    def __init__(self) -> None:
        self.text = b""
        self.is_deferred = False

    def start(self, *, lazily: bool = False) -> None:
        self.is_deferred = lazily

    def admits(self, token_id: int) -> bool:
        return token_id == 9

    def wait(self, timeout_s: float) -> bool:
        return timeout_s >= 0

    def mask(self) -> MaskArray:
        allowed = np.ones(V, bool)
        try:
            self.text.decode()
        except UnicodeDecodeError:
            allowed[:128] = False
        return np.packbits(allowed, bitorder="little").view(np.uint32)

    def sole(self) -> int | None:
        return 7

    def commit(self, token_id: int) -> None:
        assert token_id in tokens_in(self.mask())
        self.text += bytes([token_id])

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        return len(token_ids)

    def forced(self) -> list[int]:
        return [1, 2]

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        return (token_id,)

    @property
    def may_end(self) -> bool:
        return True

    def close(self) -> None: ...


class Free:
    def matcher(self) -> Matcher:
        return Bytes()


def tokens_in(mask: MaskArray) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def a_matcher(num_tokens: int, *, is_open: bool) -> Matcher:
    budget = ThinkingBudget(num_tokens, ("<t>",), END.decode(), ("<e>",), is_open=is_open)
    return BudgetedConstraint(
        Free(), budget, end_ids=list(END), token_bytes=lambda token_id: bytes([token_id])
    ).matcher()


def after(matcher: Matcher, text: str | bytes) -> Matcher:
    for token_id in text.encode() if isinstance(text, str) else text:
        matcher.commit(token_id)
    return matcher


def is_ending(matcher: Matcher) -> bool:
    return tokens_in(matcher.mask()) == {END[0]}


def test_the_end_is_all_that_may_come_at_the_budget() -> None:
    matcher = after(a_matcher(3, is_open=True), "ab")
    assert len(tokens_in(matcher.mask())) == V
    assert matcher.num_allowed([1, 2, 3]) == 1
    assert matcher.forced() == []
    assert matcher.sole() == 7  # as inside
    deferred = [matcher.is_deferred]
    matcher.start(lazily=True)
    assert [*deferred, matcher.is_deferred] == [False, True]
    assert [matcher.admits(token_id) for token_id in (8, 9)] == [False, True]
    matcher.commit(ord("c"))
    for place, token_id in enumerate(END):
        assert tokens_in(matcher.mask()) == {token_id}
        assert matcher.forced() == list(END[place:])
        assert matcher.sole() == token_id
        matcher.start(lazily=True)
        assert not matcher.is_deferred
        assert not matcher.may_end
        assert matcher.num_allowed([token_id]) == 0
        matcher.commit(token_id)
    assert len(tokens_in(matcher.mask())) == V
    assert matcher.may_end
    assert matcher.forced() == [1, 2]
    assert matcher.num_allowed([1, 2, 3]) == 3
    assert not is_ending(after(matcher, "on and on"))


def test_an_end_of_the_model_s_own_frees_the_rest() -> None:
    for end in ("</t>", "<e>"):
        assert not is_ending(after(a_matcher(9, is_open=True), f"a{end}more than nine"))


def test_a_section_opens_where_the_answer_begins_with_its_mark() -> None:
    assert is_ending(after(a_matcher(2, is_open=False), "<t>ab"))
    assert is_ending(after(a_matcher(2, is_open=False), " \n<t>ab"))
    assert not is_ending(after(a_matcher(2, is_open=False), "a<t>abcd"))
    assert not is_ending(after(a_matcher(2, is_open=False), "<abcdef"))
    assert a_matcher(2, is_open=False).forced() == []
    assert a_matcher(2, is_open=False).num_allowed([1]) == 0
    assert after(a_matcher(2, is_open=False), "x").forced() == [1, 2]


def test_nothing_at_all_is_a_budget() -> None:
    assert is_ending(a_matcher(0, is_open=True))
    assert is_ending(after(a_matcher(0, is_open=False), "<t>"))


def test_a_character_is_completed_first() -> None:
    matcher = after(a_matcher(2, is_open=True), b"a\xc3")
    assert tokens_in(matcher.mask()) == set(range(128, V))
    assert matcher.forced() == []
    assert is_ending(after(matcher, b"\xa9"))
    assert after(matcher, END).may_end


def test_the_rest_is_the_constraint_inside() -> None:
    matcher = a_matcher(2, is_open=True)
    matcher.start()
    assert matcher.wait(0)
    assert matcher.ends_within(7) == (7,)
    matcher.close()
