"""Reasoning before an answer: where it begins and ends, however the text is cut, and what a constraint must allow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.constraint.spec import Choice, Either, Json, Literal, Pattern, Sequence, Unless, Until
from runtime.errors import UnknownParser
from runtime.text.answer_delta import ContentDelta, ReasoningDelta
from runtime.text.reasoning.forms import FORMS, Section, detect_reasoning, reasoning_by_name
from runtime.text.reasoning.parser import ContentParser, ReasoningParser
from runtime.text.tool_calls.selection import FORMATS
from tests.paths import ROOT
from tests.runtime.text.tool_calls.answers import NOW, Answer, call, cuts, pieces, read

GOLDEN = json.loads((ROOT / "tests" / "golden" / "real_templates" / "prompts.json").read_text("utf-8"))
POSSIBLE, OPEN, CLOSED = Section.POSSIBLE, Section.OPEN, Section.CLOSED
_CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def parser(name: str, section: Section, **options: Any) -> ReasoningParser:
    return ReasoningParser(FORMS[name], section, FORMATS["hermes"].parser([NOW]), **options)


def answer(reasoning: str, content: str = "", calls: tuple[tuple[str, str], ...] = ()) -> Answer:
    return Answer(content, list(calls), reasoning)


SAMPLES = [
    ("think", POSSIBLE, "<think>\nhm < hm\n\nso\n</think>\n\nHi.\n", answer("hm < hm\n\nso", "Hi.\n")),
    ("think", POSSIBLE, "\n<think>hm</think>Hi", answer("hm", "Hi")),
    ("think", POSSIBLE, "  Hi <think>no</think>", answer("", "  Hi <think>no</think>")),
    ("think", POSSIBLE, "<thin", answer("", "<thin")),
    ("think", POSSIBLE, "<think>\n\n</think>\n\n  Hi", answer("", "  Hi")),
    ("think", POSSIBLE, "<think>hm </thin", answer("hm </thin")),
    ("think", OPEN, "hm\n</think>\n\nHi </think>", answer("hm", "Hi </think>")),
    ("think", OPEN, "\n<think>\nhm</think>Hi", answer("hm", "Hi")),
    ("think", OPEN, f"a {_CALL} b</think>\n{_CALL}", answer(f"a {_CALL} b", "", (call("{}", "now"),))),
    ("think", CLOSED, "<think>Hi", answer("", "<think>Hi")),
    ("granite", POSSIBLE, "Here's my thought process: hm. Here is my response: Hi", answer("hm.", " Hi")),
    ("granite", POSSIBLE, "Here is my thought process:a\n\nHere's my response:\nHi", answer("a", "Hi")),
    ("granite", POSSIBLE, "Here is my answer", answer("", "Here is my answer")),
    ("mistral", POSSIBLE, "[THINK]hm[/THINK]Hi", answer("hm", "Hi")),
    ("gemma4", POSSIBLE, "<|channel>thought\nhm\n<channel|>Hi", answer("hm", "Hi")),
    (
        "gpt_oss",
        POSSIBLE,
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi",
        answer("hm", "Hi"),
    ),
    ("gpt_oss", POSSIBLE, "<|channel|>final<|message|>Hi", answer("", "Hi")),
    ("seed_oss", POSSIBLE, "<seed:think>hm</seed:think>Hi", answer("hm", "Hi")),
]


@pytest.mark.parametrize(("name", "section", "text", "expected"), SAMPLES)
def test_reasoning_is_told_from_the_answer_however_it_is_cut(
    name: str, section: Section, text: str, expected: Answer
) -> None:
    assert read(parser(name, section), [text]) == expected
    for places in cuts(text):
        assert read(parser(name, section), pieces(text, places)) == expected, places


@pytest.mark.parametrize(("name", "section", "text", "expected"), SAMPLES)
def test_an_answer_that_is_cut_off_leaks_no_mark(name: str, section: Section, text: str, expected: Answer) -> None:
    for end in range(len(text)):
        part = read(parser(name, section), [text[:end]], cut=True)
        assert part == read(parser(name, section), text[:end], cut=True)
        assert expected.reasoning.startswith(part.reasoning)
        assert expected.content.startswith(part.content)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(
    words=st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "\n", " ", _CALL, "x", "é"]), max_size=12),
    section=st.sampled_from(Section),
    exact=st.booleans(),
)
def test_any_text_is_read_the_same_in_one_piece(words: list[str], section: Section, exact: bool) -> None:
    text = "".join(words)
    whole = read(parser("think", section, exact=exact), [text])
    assert read(parser("think", section, exact=exact), words) == whole
    assert read(parser("think", section, exact=exact), text) == whole


def test_an_answer_held_by_a_constraint_is_read_by_the_marks_of_its_constraint() -> None:
    text = "Here is my thought process:a Here's my response:b Here is my response:{}"
    exact = ReasoningParser(FORMS["granite"], POSSIBLE, ContentParser(), exact=True)
    assert read(exact, text) == answer("a Here's my response:b", "{}")
    exact = ReasoningParser(FORMS["think"], POSSIBLE, ContentParser(), exact=True)
    assert read(exact, " <think>a</think>") == answer("", " <think>a</think>")


@pytest.mark.parametrize(
    ("name", "section", "text", "num_chars"),
    [
        ("think", POSSIBLE, "\n<think>hm</think>\n\nHi", len("\n<think>hm</think>")),
        ("think", POSSIBLE, "Hi <think>no</think>", 0),
        ("think", POSSIBLE, "<think>hm </thin", len("<think>hm </thin")),
        ("think", OPEN, "hm</think>Hi</think>", len("hm</think>")),
        ("think", CLOSED, "<think>Hi</think>", 0),
        ("granite", POSSIBLE, "Here is my thought process:a\n\nHere's my response:\nHi", 49),
        ("gpt_oss", POSSIBLE, "<|channel|>final<|message|>Hi", 0),
    ],
)
def test_a_section_reaches_to_its_mark_however_it_is_cut(
    name: str, section: Section, text: str, num_chars: int
) -> None:
    for places in [(), *cuts(text)]:
        reader = parser(name, section)
        for piece in pieces(text, places):
            reader.feed(piece)
        reader.finish()
        assert reader.reasoning_chars == num_chars, places


def test_reasoning_streams() -> None:
    reader = ReasoningParser(FORMS["think"], POSSIBLE, ContentParser())
    assert reader.feed("<think>\nLet me") == [ReasoningDelta("Let me")]
    assert reader.feed(" see. </th") == [ReasoningDelta(" see.")]
    assert reader.feed("ink>\n\nHi") == [ContentDelta("Hi")]
    assert reader.feed(" you") == [ContentDelta(" you")]
    assert reader.finish() == []


def test_an_answer_held_by_a_constraint_loses_the_gap_alone() -> None:
    for text, content in (("a</think>\n\n\n{}", "\n{}"), ("a</think>{}", "{}"), ("a</think>\n{}", "\n{}")):
        assert read(ReasoningParser(FORMS["think"], OPEN, ContentParser(), exact=True), text) == answer("a", content)


@pytest.mark.parametrize(
    ("family", "case", "section"),
    [
        ("qwen3", "question", POSSIBLE),
        ("qwen3", "thinking_off", CLOSED),
        ("qwq", "question", CLOSED),
        ("qwq", "thinking_on", OPEN),
        ("deepseek_r1_llama", "question", OPEN),
        ("nemotron3", "question", OPEN),
        ("nemotron3", "thinking_off", CLOSED),
        ("smollm3", "thinking_off", CLOSED),
        ("qwen3", "thoughts", POSSIBLE),
    ],
)
def test_a_prompts_end_tells_whether_the_section_is_open(family: str, case: str, section: Section) -> None:
    (prompt,) = [each for each in GOLDEN["prompts"] if (each["family"], each["case"]) == (family, case)]
    assert FORMS["think"].section(prompt["text"]) is section


def test_what_a_user_wrote_opens_nothing() -> None:
    assert FORMS["think"].section("user: <think>\nassistant:") is POSSIBLE
    assert FORMS["deepseek_r1"].section("assistant:") is OPEN
    assert FORMS["deepseek_r1"].section("assistant:<think></think>") is CLOSED


def test_an_answer_that_goes_on_goes_on_where_its_text_stands() -> None:
    think = FORMS["think"]
    assert think.section("…", prefill="<think>\nso far") is OPEN
    assert think.section("…", prefill="<think>a</think>\nSo") is CLOSED
    assert think.section("…", prefill="So") is CLOSED


def test_a_constraint_begins_after_the_reasoning() -> None:
    part = Json("{}")
    think = FORMS["think"]
    rest = (Until("</think>"), Literal("\n\n"), part)
    assert think.before(part, CLOSED) == part
    assert think.before(part, OPEN) == Sequence(rest)
    assert think.before(part, POSSIBLE) == Either((part, Sequence((Literal("<think>"), *rest))))
    either = FORMS["gpt_oss"].before(part, POSSIBLE)
    assert isinstance(either, Either)
    assert either.parts[0] == Sequence((Literal("<|channel|>final<|message|>"), part))
    assert len(either.parts) == 2
    assert FORMS["mistral"].before(part, OPEN) == Sequence((Until("[/THINK]"), part))


def test_what_would_be_read_as_reasoning_is_no_answer_without_it() -> None:
    choice, pattern, begins = Choice(("a",)), Pattern("b"), ("<think>",)
    either = FORMS["think"].before(Either((Json("{}"), choice, Either((pattern,)))), POSSIBLE)
    assert isinstance(either, Either)
    assert either.parts[0] == Either((Json("{}"), Unless(choice, begins), Either((Unless(pattern, begins),))))


def test_marks_made_of_several_control_tokens_name_each() -> None:
    assert FORMS["think"].control_texts == ("<think>", "</think>")
    for name in ("gemma4", "gpt_oss"):
        form = FORMS[name]
        rest = "".join((*form.begins, form.end))
        for token in form.control_texts:
            assert token in rest
            rest = rest.replace(token, "")
        assert "<" not in rest


def test_forms_are_found_by_name_and_by_template() -> None:
    assert reasoning_by_name("qwen3") is FORMS["think"]
    assert reasoning_by_name("deepseek_r1") is FORMS["deepseek_r1"]
    assert reasoning_by_name("none") is None
    with pytest.raises(UnknownParser, match=r"no reasoning parser 'qwen'; there are: .*Did you mean 'qwen3'"):
        reasoning_by_name("qwen")
    assert detect_reasoning("{{ messages }}") is None
    for name, form in FORMS.items():
        assert detect_reasoning(f"'{form.begins[0]}' + thoughts") is FORMS["think" if name == "deepseek_r1" else name]
