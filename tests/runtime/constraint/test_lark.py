"""A client's Lark grammar describes text: what reaches for the server's side of the library is refused by line."""

from __future__ import annotations

import pytest

from runtime.constraint import limits
from runtime.constraint.lark import check_lark
from runtime.errors import RequestError


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "<|im_end|>" /<[*]>/  // <[*]> %json @x\nB: "\\"<[1]>"',
        'start[lazy]: /a+/\n%import common.INT\n%ignore / /\nx: "a"~2..5 "b"{1,3}',
        '%llguidance {}\nstart: "a" ~ 3\n# stop="x"',
        'start: A\nA: "["i "x]:" /[:[]/ | ["b" "c"]',
        'start: S\nS: %regex {"substring_words": "a <[1]> b"}',
        'start: %lark { start: "a" }',
    ],
)
def test_text_is_free_inside_strings_expressions_and_comments(grammar: str) -> None:
    check_lark(grammar)


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("start: <[*]>", r"line 1: <\[\*\]> names a token"),
        ('start: "a" x\nx: <|im_end|>', r"line 2: <\|im_end\|> names a token"),
        ("start: <think>", "names a token"),
        ("start: //\n <[1]>", "line 2"),
        ('start: "a\\"" <[1]>', "names a token"),
        ("start: /\\// <[1]>", "names a token"),
        ('start[stop="a"]: /b+/', "sets attributes"),
        ("start[max_tokens=3]: /b+/", "sets attributes"),
        ("start[temperature=0.1] : /b+/", "sets attributes"),
        ('start[capture="a]:"]: /b+/', "sets attributes"),
        ("start[lazy, capture]: /b+/", "sets attributes"),
        ('start[suffix="a"]: /b+/', "sets attributes"),
        ('start: %json {"type": "string"}', "%json is not supported"),
        ('%llguidance {"allow_invalid_utf8": true}', "%llguidance is not supported"),
        ("%declare X", "%declare is not supported"),
        ("start: @other", "@other refers to another grammar"),
        ('start: A\nA: ~"a"', "line 2: '~' negates"),
        ('start: A\nA: "b" & ~ /a/', "'~' negates"),
        ('start: "a"~1001', "counts to 1001; at most 1000"),
        ('start: "a"{5000,}', "counts to 5000"),
        ('start: "a"~2..99999999999', "counts to 999999999"),
    ],
)
def test_what_is_the_server_s_is_refused_by_line(grammar: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_lark(grammar)


def test_a_grammar_s_size_is_limited() -> None:
    with pytest.raises(RequestError, match=f"65537 bytes; at most {limits.MAX_LARK_BYTES}"):
        check_lark('start: "a"' + " " * (limits.MAX_LARK_BYTES - 9))
