"""The compiled constraint of every format, walked at random: what it lets a model write is what the parser reads."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.text.reasoning.forms import FORMS, Section
from runtime.text.reasoning.parser import ContentParser, ReasoningParser
from runtime.text.tool_calls.selection import FORMATS
from runtime.text.tool_calls.tool import Tool
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, allowed, compiled, walk
from tests.runtime.text.tool_calls.answers import Answer, parsed, read

_SCHEMA = {
    "type": "object",
    "properties": {
        "unit": {"enum": ["c", "f"], "type": "string"},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "deep": {"type": "boolean"},
    },
    "required": ["unit"],
    "additionalProperties": False,
}
_WORD = {
    "type": "object",
    "properties": {"word": {"type": "string", "pattern": "^ab$"}},
    "required": ["word"],
    "additionalProperties": False,
}
TOOLS = (Tool("search-all", json.dumps(_SCHEMA), strict=True), Tool("say", json.dumps(_WORD), strict=True))
# Of formats whose blocks are put together alike, one.
NAMES = (
    "generic",
    "qwen3_coder",
    "llama3_json",
    "pythonic",
    "tool_code",
    "mistral",
    "granite",
    "functiongemma",
    "deepseek_v3",
)


@pytest.fixture(scope="module")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler(TOKENIZER.vocabulary(END_IDS))
    yield compiler
    compiler.close()


def check(answer: Answer) -> None:
    for name, text in answer.calls:
        arguments = json.loads(text)
        if name == "say":
            assert arguments == {"word": "ab"}
            continue
        assert arguments["unit"] in {"c", "f"}
        assert arguments.keys() <= {"unit", "days", "deep"}
        assert arguments.get("days", 0) in range(10)
        assert arguments.get("deep", True) in {True, False}


def text_from(constraint: CompiledConstraint, begin: list[int], seed: int) -> str | None:
    """A text that begins with these tokens and goes on at random; None where it did not end, or not in UTF-8."""
    drawn, matcher = random.Random(seed), constraint.matcher()
    tokens = list(begin)
    for token_id in begin:
        matcher.commit(token_id)
    while len(tokens) < 200:
        choices = allowed(matcher)
        if END_IDS[0] in choices:
            break
        tokens.append(drawn.choice(choices))
        matcher.commit(tokens[-1])
    matcher.close()
    try:
        return b"".join(map(TOKENIZER.token_bytes, tokens)).decode() if len(tokens) < 200 else None
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_demanded_calls_hold_their_schemas(compiler: ConstraintCompiler, name: str) -> None:
    constraint = compiled(compiler, FORMATS[name].demanded(TOOLS))
    read_calls = 0
    for seed in range(3):
        way = walk(constraint, seed, max_tokens=100)
        try:
            text = way.text
        except UnicodeDecodeError:
            continue
        answer = parsed(name, text, tools=TOOLS, enforced=True, cut=not way.has_ended)
        assert answer.content == "", text
        read_calls += len(answer.calls)
        if way.has_ended:
            assert answer.calls, text
            check(answer)
    assert read_calls


@pytest.mark.parametrize("name", NAMES)
def test_offered_calls_hold_their_schemas_from_where_they_begin(compiler: ConstraintCompiler, name: str) -> None:
    wire = FORMATS[name].wire
    constraint = compiled(compiler, FORMATS[name].offered(TOOLS) or pytest.fail("a tool is strict"))
    control_id = TOKENIZER.vocabulary(END_IDS).control_ids.get(wire.trigger)  # where it is one, no text spells it
    mark = [control_id] if control_id is not None else list(wire.trigger.encode())
    begin = list(wire.bare.encode()) or [*b"Hi <", *mark]
    texts = [text for seed in range(2) if (text := text_from(constraint, begin, seed)) is not None]
    for text in texts:
        answer = parsed(name, text, tools=TOOLS, enforced=True)
        assert answer.calls, text
        assert answer.content in {"", "Hi", "Hi <"}
        check(answer)
    assert texts


@pytest.mark.parametrize("section", Section)
def test_what_follows_the_reasoning_is_held(compiler: ConstraintCompiler, section: Section) -> None:
    form, calls = FORMS["think"], FORMATS["generic"]
    constraint = compiled(compiler, form.before(calls.demanded(TOOLS, single=True), section))
    begin = {Section.OPEN: "hm </think>", Section.POSSIBLE: "<think>hm</think>", Section.CLOSED: "<"}[section]
    for seed in range(3):
        text = text_from(constraint, list(begin.encode()), seed)
        if text is None:
            continue
        following = calls.parser(TOOLS, single=True, enforced=True)
        answer = read(ReasoningParser(form, section, following, exact=True), text)
        assert answer.reasoning == ("" if section is Section.CLOSED else "hm")
        assert answer.content == ""
        assert len(answer.calls) == 1
        check(answer)
    plain = read(ReasoningParser(form, section, ContentParser()), begin + "x")
    assert plain.reasoning == ("" if section is Section.CLOSED else "hm")
