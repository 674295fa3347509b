"""The messages of docs/troubleshooting.md are messages of the code."""

from __future__ import annotations

import re

import pytest

from tests.docs.made.messages import GAP, every_text
from tests.docs.markdown import prose
from tests.paths import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
_CELL = re.compile(r"^\| (?:\d{3} \| )?`(?P<message>[^`]+)` \|")
_OF_CLICK = ["No such command …"]  # ours wraps click's
_LEAST_LETTERS = 12


def quoted() -> list[str]:
    return [found["message"] for _, line in prose(PAGE) if (found := _CELL.match(line))]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return [re.sub(r"%[ds]", GAP, text) for text in [*every_text(), makefile] if len(text) > _LEAST_LETTERS]


def is_said(message: str, texts: list[str]) -> bool:
    """Whether one text holds the message's parts between its gaps, in their order, and a gap between two of them."""
    wanted = GAP.join(re.escape(part) for part in re.split(rf"{GAP}+", message))
    pattern = re.compile(wanted.replace(GAP, rf"[^{GAP}]{{0,3}}{GAP}.*?"), re.DOTALL)
    return any(pattern.search(text) for text in texts)


def test_every_message_of_the_page_is_said_by_the_code(texts: list[str]) -> None:
    messages = quoted()
    assert len(messages) > 80
    assert [message for message in messages if not is_said(message, texts)] == []


def test_no_message_stands_there_twice() -> None:
    messages = quoted()
    assert sorted(set(messages)) == sorted(messages)


def test_a_changed_word_or_a_missing_gap_is_noticed() -> None:
    texts = [f"the plan's slots have {GAP} tokens, {GAP} were asked for; {GAP}"]
    assert is_said("the plan's slots have … tokens, … were asked for", texts)
    assert not is_said("the plan's slots have … token, … were asked for", texts)
    assert not is_said("the plan's slots have 5 tokens, … were asked for", texts)
    assert not is_said("… were asked for, the plan's slots have … tokens", texts)
    assert not is_said("the plan's … tokens, … were asked for", texts)
