"""Each kind of part, and parts in parts: which texts satisfy them, decided by the library itself."""

from __future__ import annotations

import json

import pytest

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.grammar import grammar_of
from runtime.constraint.spec import (
    Choice,
    Either,
    Json,
    Lark,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Tag,
    Tagged,
    Unless,
    Until,
)
from runtime.errors import RequestError
from tests.api.programs import IM_START
from tests.runtime.constraint.walks import accepts_text, allowed, compiled, walk, with_text

ONE = Json('{"type":"object","properties":{"a":{"const":1}},"required":["a"],"additionalProperties":false}')
TWO = Json('{"type":"object","properties":{"b":{"const":2}},"required":["b"],"additionalProperties":false}')
CALLS = (Tag("<f=a>", ONE, "</f>", "<f"), Tag("<f=b>", Literal("x"), "</f>", "<f"))


@pytest.mark.parametrize(
    ("part", "right", "wrong"),
    [
        (ONE, ['{"a":1}'], ['{"a": 1}', '{ "a":1}', '{"a":1} ', "{}", '{"a":2}', '{"a":1,"a":1}']),
        (
            Json('{"type":"object","x-guidance":{"whitespace_flexible":true,"lenient":true,"item_separator":", "}}'),
            ['{"a":1,"b":2}'],
            ['{"a":1, "b":2}', '{ "a":1}'],
        ),
        (Pattern("^a+|b$"), ["a", "aa", "b"], ["", "ab", "xb"]),
        (Pattern(""), [""], ["a"]),
        (Choice(("", "yes", "no")), ["", "yes", "no"], ["y", "yesno", "maybe"]),
        (Lark('start: "a"+ b\nb: /[0-9]{2}/'), ["a12", "aa12"], ["12", "a1"]),
        (Literal("a/b\\n\n\x00😀\"'"), ["a/b\\n\n\x00😀\"'"], ["a"]),
        (Literal("a<|im_start|>b"), ["a<|im_start|>b"], ["ab"]),
        (Unless(Pattern("[^\n]{1,9}"), ("<t>", "a.")), ["<t", "x<t>", "ab", "a"], ["<t>", "<t>x", "a.", "a.b", ""]),
        (Sequence((Unless(Choice(("a", "ab", "c")), ("ab",)), Literal("d"))), ["ad", "cd"], ["abd", "ab"]),
        (Sequence(()), [""], ["a"]),
        (Sequence((Pattern("a*"), Literal("ab"))), ["ab", "aaab"], ["a", "aa"]),
        (Sequence((Literal("x"), ONE, Literal("y"))), ['x{"a":1}y'], ['{"a":1}', 'x{"a":1}']),
        (Either((ONE, TWO, Literal("none"))), ['{"a":1}', '{"b":2}', "none"], ['{"a":1}{"b":2}', ""]),
        (Repeat(Literal("ab"), 1, 3, ", "), ["ab", "ab, ab", "ab, ab, ab"], ["", "ab, ", "ab, ab, ab, ab"]),
        (Repeat(ONE, 0, None, ","), ["", '{"a":1}', '{"a":1},{"a":1},{"a":1}'], [",", '{"a":1},']),
        (Repeat(Literal("a"), 2), ["aa", "aaaa"], ["", "a"]),
        (Repeat(Literal("a"), 0, 0), [""], ["a"]),
        (Repeat(ONE, 2, 2), ['{"a":1}{"a":1}'], ['{"a":1}', '{"a":1}{"a":1}{"a":1}']),
        (Sequence((Until("</t>"), ONE)), ['</t>{"a":1}', 'a<t></t>{"a":1}'], ['{"a":1}', '</t></t>{"a":1}', "a</t>"]),
        (
            Sequence((Until("\n<|im_start|>"), Choice(("a", "b")))),
            ["\n<|im_start|>a", "x\ny\n<|im_start|>b"],
            ["<|im_start|>a", "\na", "\n<|im_start|>c", "\n<|im_start|>\n<|im_start|>a"],
        ),
        (
            Tagged(CALLS),
            ["", "free < text", '<f=a>{"a":1}</f>', 'so <f=b>x</f> and <f=a>{"a":1}</f> done'],
            ["<f", "<f=c>", "<f=a>x</f>", "so <f=b>x</f> <f"],
        ),
        (Tagged(CALLS, at_least_one=True), ["<f=b>x</f>", "a<f=b>x</f>b<f=b>x</f>"], ["", "free"]),
        (Tagged(CALLS, stop_after_first=True), ["free", "a<f=b>x</f>"], ["<f=b>x</f>b", "<f=b>x</f><f=b>x</f>"]),
        (Tagged(CALLS, at_least_one=True, stop_after_first=True), ["a<f=b>x</f>"], ["a", "<f=b>x</f>b"]),
        (Tagged(()), ["", "anything"], []),
        (
            Tagged((Tag("<|im_start|>f(", ONE, ")", "<|im_start|>"), Tag("<|im_start|>g", Literal(""), "", "<|im"))),
            ["free", 'a<|im_start|>f({"a":1})b', "<|im_start|>g"],
            ["<|im_start|>", "<|im_start|>h"],
        ),
    ],
)  # fmt: skip
def test_texts_that_satisfy_a_part_and_texts_that_do_not(
    compiler: ConstraintCompiler, part: Part, right: list[str], wrong: list[str]
) -> None:
    constraint = compiled(compiler, part)
    assert [text for text in right if not accepts_text(constraint, text)] == []
    assert [text for text in wrong if accepts_text(constraint, text)] == []


@pytest.mark.parametrize(
    "part",
    [
        ONE,
        Json("{}"),
        Json('{"type":"string","maxLength":3}'),
        Lark('start: "a"+ b\nb: /[0-9]{2}/'),
        Lark('start: "a" start?\n%ignore " "'),
        Lark('start[lazy]: /(?s:.*)/ "</x>"'),
        Lark('start: ""'),
    ],
)
def test_a_part_that_is_the_whole_stands_alone_and_admits_what_it_does_among_others(
    compiler: ConstraintCompiler, part: Part
) -> None:
    assert len(json.loads(grammar_of(part, {}).text)["grammars"]) == 1
    alone, inside = compiled(compiler, part), compiled(compiler, Sequence((part,)))
    for seed in range(8):
        taken = walk(alone, seed, 30)
        assert walk(inside, seed, 30) == taken


def test_a_literal_s_control_token_is_that_token_and_no_text_is_one(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, Literal("a<|im_start|>b"))
    assert allowed(with_text(constraint, "a")) == [IM_START]
    spelled = compiled(compiler, Pattern(r"a<\|im_start\|>b"))
    assert allowed(with_text(spelled, "a")) == [ord("<")]
    assert IM_START not in allowed(compiled(compiler, Pattern(r"(<\|im_start\|>)?x*")).matcher())
    free = compiled(compiler, Until("<|im_start|>"))
    assert [token_id for token_id in allowed(free.matcher()) if 256 <= token_id < 260] == [IM_START]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Choice(()), "the list of choices is empty"),
        (Choice(("a", "b", "a")), "'a' is given twice"),
        (Either(()), "nothing is left to choose from"),
        (Lark("start: <[1]>"), "line 1: <.1.> names a token"),
        (Lark('other: "a"'), "cannot be enforced: no start rule found"),
        (Lark("start: /(/"), "cannot be enforced: .*invalid regex"),
        (Lark("start: start"), "no text satisfies it"),
        (Pattern("[.*"), r"'\[' without a '\]'"),
        (Pattern(r"\p{Nonsense}"), "cannot be enforced: .*invalid regex"),
        (Json("{"), "is not JSON"),
        (Json('{"type":"nonsense"}'), "nonsense|type"),
        (Sequence((Literal("a"), Pattern("(?=a)"))), "look-ahead"),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_words(compiler: ConstraintCompiler, part: Part, words: str) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        compiled(compiler, part)
    assert refused.value.field == "structured_outputs"
    assert "\n" not in str(refused.value)
