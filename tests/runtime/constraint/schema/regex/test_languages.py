"""Patterns as languages: compared with ``re`` on every short text, written again, complemented, and refused."""

from __future__ import annotations

import itertools
import re

import pytest

from runtime.constraint.schema.regex.automaton import MAX_STATES, is_nothing
from runtime.constraint.schema.regex.language import Languages, LanguageTooLarge
from runtime.constraint.schema.regex.lengths import lengths
from runtime.constraint.schema.regex.reading import found
from runtime.constraint.schema.regex.spelling import MAX_POSITIONS, spelled, spelled_once
from runtime.constraint.schema.regex.syntax import PatternRefused

TEXTS = ["".join(letters) for length in range(5) for letters in itertools.product("abx,-", repeat=length)]


def in_python(pattern: str) -> re.Pattern[str]:
    """A written pattern as ``re`` spells it."""
    return re.compile(re.sub(r"\\x\{([0-9a-f]+)\}", lambda code: f"\\U{int(code[1], 16):08x}", pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        *("^a", "a$", "b+", "^[ab]*$", "^(a|b$)", "(^|,)x", "a^b", "^(?!ab$)[ab]*$", "^(?=.*x)(?=.*a).{2,3}$"),
        *(r"\bab\b", r"\Ba", "^(?:a?){3}$", "^$|^x", "", "(a|b)*?x{2}", "^(ab|a)(b,)?$", "[^a-x]", "^(?:a$|b)?x?"),
        "(?!a)b",
    ],
)
def test_a_language_is_what_the_pattern_finds(pattern: str) -> None:
    languages = Languages()
    language = found(languages, pattern)
    written = [in_python(one) for one in spelled(languages, language)]
    complement = in_python(spelled_once(languages, languages.without(language)))
    for text in TEXTS:
        matches = re.search(pattern, text) is not None
        assert languages.holds(language, text) == matches, text
        assert all(one.fullmatch(text) for one in written) == matches, text
        assert (complement.fullmatch(text) is None) == matches, text


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        (r"^\s$", "\ufeff", "\x85"),  # white space of ECMA-262, not of Unicode
        (r"^\w$", "_", "é"),
        (r"^\d$", "7", "\u0664"),
        ("^.$", "\x85", "\u2028"),
        ("^a$", "a", "a\n"),  # $ is the end alone
        (r"^\u{1F600}\ud83d\ude00$", "\U0001f600\U0001f600", "\U0001f600"),
        (r"^[\b\-\]/]\/$", "]/", "b/"),
        ("^[^]$", "\n", ""),
        ("^a{,2}$", "a{,2}", "aa"),  # no count without its first number
        (r"^(?<year>[0-9]{2})\cJ$", "26\n", "26J"),
    ],
)
def test_classes_and_escapes_are_those_of_ecma_262(pattern: str, inside: str, outside: str) -> None:
    languages = Languages()
    assert languages.holds(found(languages, pattern), inside)
    assert not languages.holds(found(languages, pattern), outside)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "refers back"),
        ("(?<=a)b", "looks behind"),
        ("(?i)a", "flags"),
        (r"\p{L}", "Unicode property"),
        (r"\A", "does not know"),
        (r"\00", "octal"),
        (r"[\01]", "octal"),
        ("a)", "did not open"),
        ("(a", "does not close"),
        ("[a", "ends inside"),
        ("*a", "repeats nothing"),
        ("[b-a]", "ends before it begins"),
        ("a{2,1}", "at least 2 and at most 1"),
        (r"\u{110000}", "no character"),
        ("(^a)*", "holds ^"),
        ("(" * 50 + ")" * 50, "nests groups"),
        ("a{999999}", "over 100,000 times"),
    ],
)
def test_what_is_no_regular_expression_of_it_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternRefused, match=re.escape(reason)):
        found(Languages(), pattern)


@pytest.mark.parametrize(
    ("pattern", "fewest", "most"),
    [
        ("^ab?c$", 2, 3),
        ("^(ab|c)$", 1, 2),
        ("^(ab|c*)$", 0, None),
        ("^(ab){2,3}$", 4, 6),
        ("^(a?){0}$", 0, 0),
        ("^(ab){2,}$", 4, None),
        ("^a{3}", 3, None),
        ("^$", 0, 0),
        ("^(?=.{2})a{1,5}$", 2, 5),
        ("(?!a)b", 1, None),
        ("^" + "(a|b)" * 1500 + "$", 1500, 1500),
    ],
)
def test_no_text_is_shorter_or_longer_than_a_language_s_lengths(pattern: str, fewest: int, most: int | None) -> None:
    languages = Languages()
    language = found(languages, pattern)
    assert lengths(languages, language) == (fewest, most)
    outside = languages.without(language)
    assert lengths(languages, outside) == (int(not languages.nullable(outside)), None)


def test_sizes_are_bounded() -> None:
    languages = Languages()
    with pytest.raises(LanguageTooLarge):
        spelled(languages, found(languages, f"^a{{{MAX_POSITIONS + 1}}}$"))
    spelled(languages, found(languages, f"^a{{{MAX_POSITIONS}}}$"))
    late = found(languages, f"^(a|b)*a(a|b){{{MAX_STATES.bit_length()}}}$")  # over 2 ** 9 states
    with pytest.raises(LanguageTooLarge):
        spelled(languages, languages.without(late))
    wide = Languages()
    many = wide.without(found(wide, "^" + "(ab|cd)?" * 1200 + "$"))
    with pytest.raises(LanguageTooLarge):
        spelled(wide, many)


def test_only_writable_characters_are_written() -> None:
    languages = Languages()
    (pattern,) = spelled(languages, found(languages, r'^[^"]\x00?$'))
    written = in_python(pattern)
    assert not any(written.fullmatch(chr(code)) for code in (*range(8), 0x0B, *range(0x0E, 0x20), 0x22, 0x7F))
    assert all(written.fullmatch(text) for text in ("\t", "\b", " ", "\x80", "\U0010ffff"))
    assert not written.fullmatch("a\x00")


def test_disjoint_patterns_are_told_apart() -> None:
    languages = Languages()
    first, second = found(languages, "^x-"), found(languages, "^[a-w]")
    assert is_nothing(languages, languages.both((first, second)))
    assert not is_nothing(languages, languages.both((first, found(languages, "b$"))))
