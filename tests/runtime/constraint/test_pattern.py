"""Regular expressions: what they become, and what is refused by name."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from itertools import product

import pytest

from runtime.constraint import limits
from runtime.constraint.pattern import translated
from runtime.errors import RequestError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^abc$", "abc"),
        (r"\Aabc\Z", "abc"),
        ("^a|b$", "a|b"),
        ("^(?:^a|(^b))$", "(?:a|(?:b))"),
        ("(a$|b$)", "(?:a|b)"),
        ("^$", ""),
        ("a{,3}b{2}c{1,}", "a{0,3}b{2,2}c{1,}"),
        ("a*?b+?c??", "a*b+c?"),
        ("x{", r"x\{"),
        ("(?P<x>a)(?<y>b)(?:c)", "(?:a)(?:b)(?:c)"),
        ("(?i)a", "(?i)a"),
        (r"\d\w\s", r"[0-9][0-9A-Za-z_][ \t\n\r\f\v]"),
        (r"\D", r"[^\d]"),
        (r"\S", r"[^\s\x1c-\x1f\x{feff}]"),  # Python calls the former spaces, JavaScript the latter
        (r"\W", r"[^\w\p{N}]"),  # Python calls all numerals letters
        (r"[^\s]", r"[^\s\x1c-\x1f\x{feff}]"),
        (r"[\d_]", "[0-9_]"),
        (r"[^\d]", r"[^\d]"),
        (r"[^\D]", "[^[^0-9]]"),
        ("[a&&b[c~~d!--e]", r"[a\&\&b\[c\~\~d!-\-e]"),
        ("[]a]", r"[\]a]"),
        ("[a-]", r"[a\-]"),
        (r"[\b\n]", r"[\x{8}\x{a}]"),
        (r"\<\>\/\-", r"<>\/\-"),
        (r"\x41\u00e9\U0001F600\0", r"Aé😀\x{0}"),
        (r"\p{L}+", r"\p{L}+"),
        ("a/b\n", r"a\/b\x{a}"),
    ],
)
def test_a_pattern_in_the_library_s_words(pattern: str, expected: str) -> None:
    assert translated(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("a(?=b)", "look-ahead at character 1"),
        ("a(?!b)", "look-ahead"),
        ("(?<=b)a", "look-behind"),
        ("(?<!b)a", "look-behind"),
        (r"\bfoo", "word boundary at character 0"),
        (r"(a)\1", "back-reference at character 3"),
        (r"(?P<x>a)(?P=x)", "back-reference"),
        ("(?>a)", "atomic group"),
        ("a*+", "possessive"),
        ("(?(1)a|b)", "conditional"),
        ("a^b", "anchor inside"),
        ("a$b", "anchor inside"),
        ("(^a)*", "anchor inside"),
        ("(a$){2}", "anchor inside"),
        ("a(^)b", "anchor inside"),
        ("(?x)a", "flags 'x'"),
        ("a(?i)b", "group '\\(\\?i\\)'"),
        ("[.*", r"'\[' without a '\]' at character 0"),
        ("(a", r"1 '\(' without"),
        ("a)", r"'\)' without"),
        ("*a", "repeats nothing at character 0"),
        ("a{2}{3}", "repeats nothing"),
        ("^*", "repeats nothing"),
        ("a{3,2}", "the wrong way round"),
        ("[z-a]", "the wrong way round"),
        (r"\q", r"escape '\\\\q'"),
        (r"\ud800", "no character"),
        (r"\U00110000", "no character"),
        ("a\\", "escape"),
        ("(" * 65 + ")" * 65, "nests more than 64"),
    ],
)
def test_what_cannot_be_had_exactly_is_refused_by_name(pattern: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        translated(pattern)


def test_repetitions_count_as_they_would_be_written_out() -> None:
    most = limits.MAX_PATTERN_POSITIONS
    assert translated(f"a{{{most}}}") == f"a{{{most},{most}}}"
    for pattern in (
        f"a{{{most + 1}}}",
        f"a{{{most}}}b",
        "((a{30}){30}){30}",
        f"(ab){{{most}}}",
        "a{99999999999999999999}",
    ):
        with pytest.raises(RequestError, match=rf"written out; at most {most} are allowed"):
            translated(pattern)
    with pytest.raises(RequestError, match=rf"16385 characters; at most {limits.MAX_PATTERN_CHARS}"):
        translated("a" * 16_385)


def test_dropping_anchors_changes_no_match() -> None:
    """Random expressions of anchors, groups and repetitions, against every short text."""
    drawn = random.Random(0)
    texts = ["".join(letters) for length in range(4) for letters in product("ab", repeat=length)]
    compared = 0
    for _ in range(6_000):
        pattern = "".join(drawn.choice("aab^$(()||*?") for _ in range(drawn.randint(1, 8)))
        with suppress(re.error, RequestError):
            ours, theirs = re.compile(translated(pattern)), re.compile(pattern)
            compared += "^" in pattern or "$" in pattern
            assert [ours.fullmatch(text) is None for text in texts] == [
                theirs.fullmatch(text) is None for text in texts
            ]
    assert compared > 300
