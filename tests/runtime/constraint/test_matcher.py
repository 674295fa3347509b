"""One choice's way: masks, drafts, forced tokens, and where a text may end."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.matcher import GrammarMatcher
from runtime.constraint.spec import (
    Choice,
    Json,
    Lark,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Until,
)
from runtime.errors import ConstraintFailed
from tests.api.programs import IM_START, PIECE_IDS
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, allowed, compiled, walk

DIGITS = Pattern("[0-9]{2,4}")


def test_end_tokens_come_all_or_none(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, DIGITS).matcher()
    digits = list(range(ord("0"), ord("9") + 1))
    assert allowed(matcher) == digits
    ends = [matcher.may_end]
    for character in "12":
        matcher.commit(ord(character))
        ends.append(matcher.may_end)
    assert ends == [False, False, True]
    assert allowed(matcher) == [*digits, *END_IDS]
    for character in "34":
        matcher.commit(ord(character))
    assert allowed(matcher) == list(END_IDS)
    matcher.commit(END_IDS[1])
    matcher.close()
    matcher.close()


def test_no_id_without_a_token_is_ever_allowed(compiler: ConstraintCompiler) -> None:
    """The logits of many models have more ids than the tokenizer has tokens."""
    tokens = allowed(compiled(compiler, Pattern("(?s).*")).matcher())
    assert all(TOKENIZER.token_bytes(token_id) for token_id in tokens)
    assert set(PIECE_IDS.values()) <= set(tokens)
    assert IM_START not in tokens


def test_a_mask_is_computed_once_and_stays_until_commit(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, DIGITS).matcher()
    first = allowed(matcher)
    matcher.start()
    assert matcher.wait(0)
    assert allowed(matcher) == first
    assert matcher.mask() is matcher.mask()


def test_a_draft_counts_up_to_the_first_token_that_may_not_come(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, DIGITS).matcher()
    end = END_IDS[0]
    assert matcher.num_allowed([]) == 0
    assert matcher.num_allowed(list(b"12x4")) == 2
    assert matcher.num_allowed([end]) == 0
    assert matcher.num_allowed([*b"12", end, *b"3"]) == 3
    assert matcher.num_allowed(list(b"123456")) == 4
    for character in b"1234":
        matcher.commit(character)
    assert matcher.num_allowed([END_IDS[1]]) == 1
    assert matcher.num_allowed(list(b"5")) == 0
    assert allowed(matcher) == list(END_IDS)


def test_forced_tokens_are_those_of_the_model_s_tokenizer(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, Sequence((Literal("a<|im_start|>bc"), Choice(("x", "y"))))).matcher()
    forced = [ord("a"), IM_START, ord("b"), ord("c")]
    assert matcher.forced() == forced
    for token_id in forced:
        assert allowed(matcher) == [token_id]
        assert matcher.forced()[0] == token_id
        matcher.commit(token_id)
    assert matcher.forced() == []
    assert matcher.num_allowed(list(b"x")) == 1


class _AtOnce:
    """Does jobs where they are ordered, and counts them."""

    def __init__(self) -> None:
        self.num_jobs = 0

    def put(self, job: Callable[[], None]) -> None:
        self.num_jobs += 1
        job()


def _driven(constraint: CompiledConstraint) -> tuple[GrammarMatcher, _AtOnce]:
    threads = _AtOnce()
    told: dict[str, Any] = {"table": constraint._table, "on_close": lambda *_told: None}
    return GrammarMatcher(constraint._copy(), threads=threads, **told), threads  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "part",
    [
        Json(
            '{"type":"object","properties":{"hello":{"enum":["a","ab"]},"b":{"const":"é😀"}},"required":["hello","b"]}'
        ),
        Sequence((Literal("a<|im_start|>bc"), Choice(("x", "xy", "hello there", "hello then")))),
        Sequence((Until("!"), Literal("<t>"), Json('{"const":[1,2]}'), Literal("</t>"))),
        Repeat(Literal("hello"), 1, 3, ", "),
        Lark('start: "hello " ("he" | "hello")'),
    ],
)
def test_masks_are_the_library_s_also_where_it_is_not_asked(compiler: ConstraintCompiler, part: Part) -> None:
    num_sole = num_jobs = num_tokens = 0
    for seed in range(6):
        matcher, threads = _driven(compiled(compiler, part))
        library, drawn = matcher._matcher.deep_copy(), random.Random(seed)
        while num_tokens < 60 * (seed + 1):
            tokens = allowed(matcher)
            expected = np.unpackbits(np.frombuffer(library.compute_bitmask(), np.uint8), bitorder="little")
            assert tokens == np.flatnonzero(expected).tolist()
            num_tokens += 1
            num_sole += (sole := matcher.sole()) is not None
            assert sole is None or tokens == [sole]
            token_id = drawn.choice(tokens)
            if token_id in END_IDS:
                break
            matcher.commit(token_id)
            assert library.consume_token(token_id)
        num_jobs += threads.num_jobs
    assert num_jobs < num_tokens
    assert num_jobs >= num_tokens - num_sole


def test_a_forced_text_costs_one_job(compiler: ConstraintCompiler) -> None:
    matcher, threads = _driven(compiled(compiler, Sequence((Literal("abcdef"), Choice(("x", "y"))))))
    for character in "abcdef":
        assert allowed(matcher) == [matcher.sole()] == [ord(character)]
        assert matcher.num_allowed([ord(character), ord("?")]) == 1
        assert not matcher.may_end
        matcher.commit(ord(character))
    assert threads.num_jobs == 1
    assert allowed(matcher) == [ord("x"), ord("y")]
    assert matcher.ends_within(ord("y")) == (1,)
    assert matcher.sole() is None
    assert threads.num_jobs == 2
    matcher.commit(ord("y"))
    assert matcher.may_end
    assert allowed(matcher) == list(END_IDS)


def test_amid_forced_text_the_library_is_told_before_it_is_asked(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, Sequence((Literal("abc"), Choice(("", "d")))))
    matcher, _ = _driven(constraint)
    for character in "ab":
        assert allowed(matcher) == [ord(character)]
        matcher.commit(ord(character))
    assert matcher.ends_within(ord("c")) == (1,)
    for fresh in (True, False):
        matcher, _ = _driven(constraint)
        if fresh:
            assert allowed(matcher) == [ord("a")]
        with pytest.raises(ConstraintFailed, match="cannot go on"):
            matcher.commit(ord("b"))
        assert matcher._failure is not None


def test_forced_text_may_come_in_other_tokens_than_those_that_are_forced(compiler: ConstraintCompiler) -> None:
    matcher, _ = _driven(compiled(compiler, Sequence((Literal("hello"), Choice(("x", "y"))))))
    assert allowed(matcher) == [matcher.sole()] == [ord("h")]
    matcher.commit(PIECE_IDS["hello"])
    assert matcher.sole() is None
    assert allowed(matcher) == [ord("x"), ord("y")]


def test_a_character_of_four_tokens_arrives_whole(compiler: ConstraintCompiler) -> None:
    assert walk(compiled(compiler, Json('{"const":"😀é"}')), 0).text == '"😀é"'
    assert walk(compiled(compiler, Choice(("😀", "😃"))), 1).text in {"😀", "😃"}


def test_where_a_token_s_bytes_reach_an_end(compiler: ConstraintCompiler) -> None:
    words = compiled(compiler, Choice(("hello", "he", "h€", "no"))).matcher()
    allowed(words)
    assert words.ends_within(PIECE_IDS["hello"]) == (2, 5)
    assert words.ends_within(ord("n")) == ()
    words.commit(ord("h"))
    words.commit(ord("e"))
    allowed(words)
    assert words.ends_within(ord("l")) == (0,)
    control = compiled(compiler, Choice(("", "a"))).matcher()
    assert control.ends_within(IM_START) == (0,)
    marked = compiled(compiler, Literal("<|im_start|>")).matcher()
    assert marked.ends_within(IM_START) == (len("<|im_start|>"),)
