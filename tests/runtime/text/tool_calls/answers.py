"""Answers in every format, with what must be read in them, and ways to read them in pieces."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from runtime.text.answer_delta import AnswerDelta, AnswerParser, CallStarted, ContentDelta, ReasoningDelta
from runtime.text.tool_calls.selection import FORMATS
from runtime.text.tool_calls.tool import Tool

WEATHER = Tool(
    "get_weather",
    '{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"},'
    '"tags":{"type":"array","items":{"type":"string"}},"exact":{"type":"boolean"}},"required":["city"]}',
)
NOW = Tool("now", '{"type":"object","properties":{}}')
TOOLS = (WEATHER, NOW)


@dataclass(frozen=True)
class Answer:
    """What the deltas of one choice come to."""

    content: str = ""
    calls: Sequence[tuple[str, str]] = ()
    reasoning: str = ""


def folded(deltas: Iterable[AnswerDelta]) -> Answer:
    """The deltas joined; their order and their indexes are what readers of a stream rely on."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for delta in deltas:
        if isinstance(delta, ContentDelta):
            content.append(delta.text)
        elif isinstance(delta, ReasoningDelta):
            reasoning.append(delta.text)
        elif isinstance(delta, CallStarted):
            assert delta.index == len(calls), "an index counts the calls of an answer"
            calls.append((delta.name, []))
        else:
            assert delta.index == len(calls) - 1, "a call's arguments come before the next call"
            calls[-1][1].append(delta.text)
    return Answer("".join(content), [(name, "".join(arguments)) for name, arguments in calls], "".join(reasoning))


def read(parser: AnswerParser, pieces: Iterable[str], *, cut: bool = False) -> Answer:
    deltas = [delta for piece in pieces for delta in parser.feed(piece)]
    return folded(deltas + parser.finish(cut=cut))


def parsed(name: str, text: str, *, tools: Sequence[Tool] = TOOLS, cut: bool = False, **options: Any) -> Answer:
    return read(FORMATS[name].parser(tools, **options), [text], cut=cut)


def pieces(text: str, cuts: Iterable[int]) -> list[str]:
    places = [0, *sorted(cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def cuts(text: str) -> Iterable[Sequence[int]]:
    """At every point alone, and at all points."""
    yield from ((place,) for place in range(1, len(text)))
    yield range(1, len(text))


def random_cuts(text: str, draw: random.Random) -> Sequence[int]:
    """Two to six points, some of them perhaps the same."""
    return draw.choices(range(len(text) + 1), k=draw.randint(2, 6))


def call(arguments: str, name: str = "get_weather") -> tuple[str, str]:
    return name, arguments


_NOTHING = call("{}", "now")
_ODD = r'{"city": "a \"}]\\</tool_call>\n\u00e9 😀 {", "tags": ["[", {"b": {}}], "days": -1.5e3}'
_ODD_PARAMETERS = f'{{"name": "get_weather", "parameters": {_ODD}}}'
_ODD_CALL = f'{{"name": "get_weather", "arguments": {_ODD}}}'
_NOW_CALL = '{"name": "now", "arguments": {}}'
_BOTH = [call(_ODD), _NOTHING]
_XML = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich <x>\n{1}\n</parameter>\n<parameter=days>\n2\n"
    '</parameter>\n<parameter=tags>\n["a", "b"]\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n'
    "</tool_call>"
)
_XML_CALL = call('{"city": "Zürich <x>\\n{1}", "days": 2, "tags": ["a", "b"], "exact": true}')
_XML_NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
_PYTHON = """[get_weather(city='it\\'s "é" 😀\\n)]', days=-2, tags=["a", 'b',], exact=True), now()]"""
_PYTHON_CALLS = [call('{"city": "it\'s \\"é\\" 😀\\n)]", "days": -2, "tags": ["a", "b"], "exact": true}'), _NOTHING]
_GEMMA_CALL = call('{"city": "Zürich {,}", "days": 3, "tags": ["a", "b"], "exact": true}')


def _deepseek(*calls: str) -> str:
    marked = [f"<｜tool▁call▁begin｜>{text}<｜tool▁call▁end｜>" for text in calls]
    return f"<｜tool▁calls▁begin｜>{chr(10).join(marked)}<｜tool▁calls▁end｜>"


def _gemma(begin: str, end: str, quote: str) -> str:
    arguments = f"city:{quote}Zürich {{,}}{quote},days:3,tags:[{quote}a{quote},{quote}b{quote}],exact:true"
    return f"{begin}call:get_weather{{{arguments}}}{end}{begin}call:now{{}}{end}"


SAMPLES: list[tuple[str, str, Answer]] = [
    ("hermes", f"<tool_call>\n{_ODD_CALL}\n</tool_call>\n<tool_call>\n{_NOW_CALL}\n</tool_call>", Answer(calls=_BOTH)),
    ("hermes", f"Let me see.\n\n<tool_call>{_NOW_CALL}</tool_call>\n", Answer("Let me see.", calls=[_NOTHING])),
    ("hermes", f"a <tool_call>{_NOW_CALL}</tool_call> b", Answer("a  b", calls=[_NOTHING])),
    ("hermes", f" \n<tool_call>{_NOW_CALL}</tool_call> b", Answer("b", calls=[_NOTHING])),
    ("hermes", '<tool_call>{"arguments": {"a": [1]}, "name": "now"}', Answer(calls=[call('{"a": [1]}', "now")])),
    ("hermes", '<tool_call>{"id": "x", "name": "now"}</tool_', Answer(calls=[_NOTHING])),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', Answer(calls=[_NOTHING])),
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": "{\\"a\\": 1}"}</tool_call>',
        Answer(calls=[call('{"a": 1}', "now")]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "now", "arguments": " {\\"a\\": 1}\\n"}</tool_call>',
        Answer(calls=[call('{"a": 1}', "now")]),
    ),
    ("qwen3_coder", f"{_XML}\n{_XML_NOW}", Answer(calls=[_XML_CALL, _NOTHING])),
    (
        "qwen3_coder",
        "<function=now>\n<parameter=x>\n\n a\n\n</parameter>\n</function>",
        Answer(calls=[call('{"x": "\\n a\\n"}', "now")]),
    ),
    ("qwen3_coder", f"hm <tool_call>{_NOW_CALL}</tool_call>", Answer("hm", calls=[_NOTHING])),
    ("llama3_json", f"{_ODD_PARAMETERS}; {_NOW_CALL}", Answer(calls=_BOTH)),
    ("llama3_json", f"Sure: <|python_tag|>{_ODD_PARAMETERS}", Answer("Sure:", calls=_BOTH[:1])),
    ("llama3_json", f"\n\n{_NOW_CALL}\n done", Answer("done", calls=[_NOTHING])),
    ("pythonic", _PYTHON, Answer(calls=_PYTHON_CALLS)),
    ("pythonic", f"x <|python_tag|>{_PYTHON}", Answer("x", calls=_PYTHON_CALLS)),
    ("pythonic", f'[{{"name": "now", "parameters": {{}}}}, {_PYTHON[1:]}', Answer(calls=[_NOTHING, *_PYTHON_CALLS])),
    ("llama4_pythonic", f"<|python_start|>{_PYTHON}<|python_end|>", Answer(calls=_PYTHON_CALLS)),
    ("lfm2", f"<|tool_call_start|>{_PYTHON}<|tool_call_end|>ok", Answer("ok", calls=_PYTHON_CALLS)),
    (
        "tool_code",
        "a\n```tool_code\nnow(a=None)\nnow()\n```",
        Answer("a", calls=[call('{"a": null}', "now"), _NOTHING]),
    ),
    ("mistral", f"[TOOL_CALLS]get_weather[CALL_ID]abc123def[ARGS]{_ODD}[TOOL_CALLS]now[ARGS]{{}}", Answer(calls=_BOTH)),
    ("mistral", f"ok[TOOL_CALLS]now{{}}\n[TOOL_CALLS]get_weather{_ODD}", Answer("ok", calls=_BOTH[::-1])),
    (
        "mistral_json",
        f'[TOOL_CALLS] [{_ODD_CALL}, {{"name": "now", "arguments": {{}}, "id": "abc123deg"}}]',
        Answer(calls=_BOTH),
    ),
    ("granite", f"<|tool_call|>[{_ODD_CALL}, {_NOW_CALL}]", Answer(calls=_BOTH)),
    ("granite", f"<tool_call>[{_NOW_CALL}]</tool_call>", Answer(calls=[_NOTHING])),
    ("phi4_mini_json", f"functools[{_ODD_CALL}, {_NOW_CALL}]", Answer(calls=_BOTH)),
    ("phi4", f"<|tool_call|>[{_ODD_CALL}, {_NOW_CALL}]<|/tool_call|>", Answer(calls=_BOTH)),
    (
        "functiongemma",
        _gemma("<start_function_call>", "<end_function_call>", "<escape>"),
        Answer(calls=[_GEMMA_CALL, _NOTHING]),
    ),
    ("gemma4", _gemma("<|tool_call>", "<tool_call|>", '<|"|>'), Answer(calls=[_GEMMA_CALL, _NOTHING])),
    (
        "deepseek_v3",
        _deepseek(
            f"function<｜tool▁sep｜>get_weather\n```json\n{_ODD}\n```", "function<｜tool▁sep｜>now\n```json\n{}\n```"
        ),
        Answer(calls=_BOTH),
    ),
    (
        "deepseek_v31",
        "x" + _deepseek(f"get_weather<｜tool▁sep｜>{_ODD}", "now<｜tool▁sep｜>{}"),
        Answer("x", calls=_BOTH),
    ),
    ("generic", f"So:\n```json\n{_ODD_PARAMETERS}\n{_NOW_CALL}\n```\nDone.", Answer("So:\n\nDone.", calls=_BOTH)),
    ("generic", f"```\n[{_NOW_CALL}]```", Answer(calls=[_NOTHING])),
    ("generic", f"[{_ODD_CALL}, {_NOW_CALL}]", Answer(calls=_BOTH)),
    ("generic", f"{_NOW_CALL}", Answer(calls=[_NOTHING])),
    ("generic", f"<tool_call>{_NOW_CALL}</tool_call>", Answer(calls=[_NOTHING])),
]
"""Format, an answer in it, and what is in the answer."""

MALFORMED: list[tuple[str, str]] = [
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Par}</tool_call>'),
    ("hermes", 'So <tool_call>\n{"name": "get_weather", "arguments": {"city": Paris}}\n</tool_call> '),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"days": 01}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": {"a": "x\ny"}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": \\"\\\\ud83d\\"}x"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"\\ud83d\\": 1}"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{\\"a\\": NaN}"}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", "Use <tool_call> tags like </tool_call>.\n"),
    ("hermes", " a < b <tool"),
    ("hermes", "\n\n"),
    ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</function>\n</tool_call>"),
    ("qwen3_coder", "<function=unknown></function>"),
    ("qwen3_coder", "<function=now><parameter=a>1</parameter><parameter=a>2</parameter></function>"),
    ("llama3_json", '{"city": "Paris"}'),
    ("llama3_json", '{"name": "now"}'),
    ("llama3_json", 'Like this: {"name": "now", "parameters": {}}'),
    ("llama3_json", '<|python_tag|>print("a")'),
    ("pythonic", "[1] is a footnote, [get_weather](x) a link."),
    ("pythonic", "[get_weather(city='a', city='b')]"),
    ("pythonic", "[get_weather(city=x)]"),
    ("pythonic", "[now(a=1 + 1)]"),
    ("pythonic", "[now(a='\\ud83d')]"),
    ("pythonic", f"[now(a={'[' * 70}{']' * 70})]"),
    ("mistral", "[TOOL_CALLS]unknown[ARGS]{}"),
    ("mistral", "[TOOL_CALLS]now[ARGS][1]"),
    ("mistral_json", '[TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "x", "arguments": {}}]'),
    ("granite", "<|tool_call|>[]"),
    ("phi4_mini_json", "functools[1, 2]"),
    ("functiongemma", "<start_function_call>call:now{a:<escape>b}<end_function_call>"),
    ("gemma4", "<|tool_call>call:now{a:}<tool_call|>"),
    ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>x\n```json\n{}\n```"),
    ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{]<｜tool▁call▁end｜>"),
    ("generic", '```json\n{"city": "Paris"}\n```'),
    ("generic", '```json\n{"name": "now"}\n```'),
    ("generic", "```python\nprint({})\n```\n"),
    ("generic", '{"name": "Bob", "arguments": {}}'),
]
"""Format, and an answer without a call in it."""
