"""Every format: the calls in an answer, however the answer is cut into pieces; and answers that hold none."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta
from runtime.text.tool_calls.selection import FORMATS
from runtime.text.tool_calls.tool import Tool
from tests.runtime.text.tool_calls.answers import (
    MALFORMED,
    NOW,
    SAMPLES,
    TOOLS,
    WEATHER,
    Answer,
    call,
    cuts,
    parsed,
    pieces,
    random_cuts,
    read,
)

ALL = [*SAMPLES, *((name, text, Answer(text, [])) for name, text in MALFORMED)]
NAMES = list(FORMATS)
_NOW = '<tool_call>{"name": "now", "arguments": {"a": 1}}</tool_call>'


def test_there_are_answers_of_every_format() -> None:
    assert {name for name, _, _ in SAMPLES} == set(NAMES)


@pytest.mark.parametrize(("name", "text", "answer"), ALL)
def test_an_answer_in_one_piece(name: str, text: str, answer: Answer) -> None:
    assert parsed(name, text) == answer


@pytest.mark.parametrize("enforced", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_cut_at_every_point(name: str, enforced: bool) -> None:
    for _, text, answer in (sample for sample in ALL if sample[0] == name):
        expected = parsed(name, text, enforced=True) if enforced else answer
        for places in cuts(text):
            assert read(FORMATS[name].parser(TOOLS, enforced=enforced), pieces(text, places)) == expected, places


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_cut_at_a_thousand_random_sets_of_points(name: str) -> None:
    samples = [(text, answer) for own, text, answer in ALL if own == name]
    draw = random.Random(name)
    for turn in range(1000):
        text, answer = samples[turn % len(samples)]
        places = random_cuts(text, draw)
        assert read(FORMATS[name].parser(TOOLS), pieces(text, places)) == answer, (text, places)


@pytest.mark.parametrize("enforced", [False, True])
@pytest.mark.parametrize(("name", "text", "answer"), SAMPLES)
def test_an_answer_that_is_cut_off_anywhere(name: str, text: str, answer: Answer, enforced: bool) -> None:
    whole = parsed(name, text, enforced=enforced)
    for end in range(len(text)):
        part = parsed(name, text[:end], enforced=enforced, cut=True)
        assert whole.content.startswith(part.content.rstrip()), "text that may be a mark, or its beginning, leaked"
        assert len(part.calls) <= len(whole.calls)
        for (name_then, then), (name_now, now) in zip(whole.calls, part.calls, strict=False):
            assert name_then == name_now
            assert then.startswith(now)
        if end % 9 == 0:
            streamed = FORMATS[name].parser(TOOLS, enforced=enforced)
            assert read(streamed, text[:end], cut=True) == part


_FRAGMENTS = [
    *sorted({mark for form in FORMATS.values() for mark in (*form.control_texts, *form.opening.marks)}),
    *"{}[]()\"\\,:=\n '`;",
    '{"name": "now", "arguments": {',
    '"name": "now"',
    '"arguments": ',
    "now(",
    "call:now{",
    "<function=now>",
    "<parameter=a>",
    "</parameter>",
    "</function>",
    "a=1",
    "```json\n",
    "null",
    "1",
    "é😀",
    "text",
]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(words=st.lists(st.sampled_from(_FRAGMENTS) | st.text(max_size=3), max_size=30), tail=st.booleans())
def test_any_text_is_read_and_none_is_lost(name: str, words: list[str], tail: bool) -> None:
    text = "".join(words)
    answer = parsed(name, text)
    assert read(FORMATS[name].parser(TOOLS), words) == answer
    assert read(FORMATS[name].parser(TOOLS), text, cut=tail).calls[: len(answer.calls) - 1] == answer.calls[:-1]
    assert answer.calls or answer.content == text
    for called, arguments in answer.calls:
        assert called in {"now", "get_weather"}
        assert isinstance(json.loads(arguments), dict)


def test_a_call_is_told_when_it_is_complete_unless_a_constraint_holds() -> None:
    plain = FORMATS["hermes"].parser(TOOLS)
    assert plain.feed('a <tool_call>{"name": "now", "arguments": {"a": 1') == [ContentDelta("a")]
    assert plain.feed("}}</tool_call>") == [CallStarted(0, "now"), ArgumentsDelta(0, '{"a": 1}')]
    enforced = FORMATS["hermes"].parser(TOOLS, enforced=True)
    told = enforced.feed('a <tool_call>{"name": "now", "arguments": {"a": 1')
    assert told == [ContentDelta("a"), CallStarted(0, "now"), ArgumentsDelta(0, '{"a": 1')]
    assert enforced.feed("}}</tool_call>") == [ArgumentsDelta(0, "}")]


def test_what_an_eager_parser_told_stays_told_and_no_markup_follows_it() -> None:
    text = '<tool_call>{"name": "now", "arguments": {"a": x}}</tool_call> b'
    assert parsed("hermes", text, enforced=True) == Answer("", [call('{"a": ', "now")])
    assert parsed("hermes", text) == Answer(text, [])


@pytest.mark.parametrize(("name", "text", "answer"), [sample for sample in SAMPLES if len(sample[2].calls) > 1])
def test_where_only_one_call_is_allowed_the_first_is_told_alone(name: str, text: str, answer: Answer) -> None:
    before = answer.content.partition("\n")[0] if text.startswith(answer.content[:1]) else ""
    assert parsed(name, text + " more", single=True) == Answer(before, answer.calls[:1])


def test_calls_after_one_that_was_none_are_found() -> None:
    text = f'<tool_call>{{"name": "now", bad}}</tool_call>\n{_NOW}'
    answer = parsed("hermes", text)
    assert answer == Answer('<tool_call>{"name": "now", bad}</tool_call>', [call('{"a": 1}', "now")])


def test_an_index_counts_the_calls_that_were_told() -> None:
    text = f'{_NOW}\n<tool_call>{{"name": "now", "arguments": {{}} x\n{_NOW}'
    assert parsed("hermes", text).calls == [call('{"a": 1}', "now")] * 2


def test_a_block_is_all_calls_or_none() -> None:
    text = '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "now"'
    assert parsed("mistral_json", text) == Answer(text, [])
    assert parsed("mistral_json", text, cut=True) == Answer("", [call("{}", "now")])


def test_where_a_constraint_holds_only_what_it_holds_is_a_call() -> None:
    fenced = '```json\n{"name": "now", "arguments": {}}\n```'
    assert parsed("generic", fenced, enforced=True) == Answer(fenced, [])
    assert parsed("generic", _NOW, enforced=True).calls == [call('{"a": 1}', "now")]


def test_white_space_before_what_is_dropped_at_a_cut_is_dropped() -> None:
    assert parsed("hermes", "\n<tool_", cut=True) == Answer("", [])
    assert parsed("hermes", "a \n<tool_", cut=True) == Answer("a", [])
    assert parsed("hermes", "a \n", cut=True) == Answer("a \n", [])


def test_a_closing_tag_inside_a_json_value_closes_nothing() -> None:
    text = '<function=get_weather><parameter=tags>["</parameter>", "b"]</parameter></function>'
    assert parsed("qwen3_coder", text) == Answer("", [call('{"tags": ["</parameter>", "b"]}')])


def test_a_tool_may_be_named_like_a_kind_of_tools() -> None:
    text = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    assert parsed("deepseek_v31", text, tools=[Tool("function")]) == Answer("", [call("{}", "function")])


def test_a_closing_mark_may_be_missing_at_the_end_but_not_before_other_text() -> None:
    assert parsed("hermes", _NOW.removesuffix("</tool_call>")) == Answer("", [call('{"a": 1}', "now")])
    text = _NOW.replace("</tool_call>", " and more")
    assert parsed("hermes", text) == Answer(text, [])


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ('{"type":"string"}', "12", "12"),
        ('{"type":"string"}', "null", "null"),
        ('{"type":"integer"}', " 12 ", 12),
        ('{"type":"integer"}', "2.0", 2),
        ('{"type":"integer"}', "2.5", "2.5"),
        ('{"type":"number"}', "1e3", 1000.0),
        ('{"type":"number"}', "NaN", "NaN"),
        ('{"type":"boolean"}', "true", True),
        ('{"type":"boolean"}', "False", False),
        ('{"type":"boolean"}', "yes", "yes"),
        ('{"type":["string","null"]}', "null", None),
        ('{"type":["string","null"]}', "12", "12"),
        ('{"anyOf":[{"type":"integer"},{"type":"null"}]}', "None", None),
        ('{"$ref":"#/$defs/n"}', "3", 3),
        ('{"enum":["1","2"]}', "1", "1"),
        ('{"const":7}', "7", 7),
        ('{"type":"object"}', "{'a': (1, .5), \"b\": None}", {"a": [1, 0.5], "b": None}),
        ('{"type":"object"}', '{"a": {}}', {"a": {}}),
        ('{"type":"array"}', "[1, 2", "[1, 2"),
        ("{}", '{"a": 1}', {"a": 1}),
        ("{}", "free text", "free text"),
        ("true", "5", 5),
    ],
)
def test_a_tags_text_becomes_what_the_schema_asks_for(kind: str, text: str, value: object) -> None:
    tool = type(NOW)("now", f'{{"type":"object","properties":{{"a":{kind}}},"$defs":{{"n":{{"type":"integer"}}}}}}')
    wire = f"<tool_call>\n<function=now>\n<parameter=a>\n{text}\n</parameter>\n</function>\n</tool_call>"
    ((_, arguments),) = parsed("qwen3_coder", wire, tools=[tool]).calls
    assert json.loads(arguments) == {"a": value}
    assert type(json.loads(arguments)["a"]) is type(value) or value == 2


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'a'", "a"),
        (r'"\x41\u00e9\U0001F600\t\q\/"', "Aé😀\t\\q/"),
        (r'"\ud83d\ude00"', "😀"),
        ("-1_000", -1000),
        ("+.5", 0.5),
        ("007", 7),
        ("1.", 1.0),
        ("1E-2", 0.01),
        ("()", []),
        ("(1,)", [1]),
        ("{'a': [None, {}], \"b\": -0.0}", {"a": [None, {}], "b": -0.0}),
        ("null", None),
    ],
)
def test_a_literal_becomes_json(literal: str, value: object) -> None:
    ((_, arguments),) = parsed("pythonic", f"[now(a = {literal})]").calls
    assert json.loads(arguments) == {"a": value}


def test_the_tools_of_a_call_are_the_requests() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    assert parsed("hermes", text, tools=[WEATHER]) == Answer(text, [])
    assert parsed("hermes", text, tools=[]) == Answer(text, [])


@pytest.mark.parametrize("name", NAMES)
def test_deltas_are_told_in_order(name: str) -> None:
    for _, text, answer in (sample for sample in SAMPLES if sample[0] == name):
        parser = FORMATS[name].parser(TOOLS, enforced=True)
        deltas: list[AnswerDelta] = [delta for character in text for delta in parser.feed(character)]
        deltas += parser.finish()
        starts = [delta.index for delta in deltas if isinstance(delta, CallStarted)]
        assert starts in (list(range(len(answer.calls))), [])
