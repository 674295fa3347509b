"""Choices as one expression: exactly these texts, whatever their beginnings have in common."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.constraint.choices import choice_expression
from runtime.errors import RequestError

TEXTS = st.lists(st.text("ab.|(é", max_size=5), min_size=1, max_size=12, unique=True)


@given(TEXTS, TEXTS)
def test_the_expression_matches_these_and_no_other(texts: list[str], others: list[str]) -> None:
    expression = re.compile(choice_expression(texts))
    for text in {*texts, *others}:
        assert bool(expression.fullmatch(text)) == (text in texts)


def test_beginnings_are_written_once_and_never_nest_without_end() -> None:
    assert choice_expression(["yes", "no", "yesterday"]) == "(?:no|yes(?:terday)?)"
    expression = choice_expression(["x" * length for length in range(1, 120)])
    assert all(bool(re.fullmatch(expression, "x" * length)) == (1 <= length < 120) for length in range(125))


def test_an_empty_list_and_a_repeated_text_are_refused() -> None:
    with pytest.raises(RequestError, match="the list of choices is empty"):
        choice_expression([])
    with pytest.raises(RequestError, match="the choice 'a' is given twice"):
        choice_expression(["a", "b", "a"])
