"""Asked about one token, a matcher says what its mask would hold: for every token, on every way, or it says nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.constraint import limits
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.matcher import GrammarMatcher
from runtime.constraint.spec import Choice, Json, Lark, Literal, Part, Pattern, Sequence, Until
from runtime.errors import ConstraintFailed
from tests.api.programs import IM_START, PIECE_IDS
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, allowed, compiled
from tests.runtime.engine_driver import Driver, request

PERSON = Json(
    '{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":0},'
    '"of":{"enum":["hello","here","é😀"]},"more":{"type":"string"}},"required":["name","age"]}'
)
FREE = Pattern("(?s)[^!]*")
PARTS: list[Part] = [
    PERSON,
    FREE,
    Json('{"type":"array","items":{"type":["string","number","boolean"]},"maxItems":5}'),
    Sequence((Until("!"), Literal("a<|im_start|>bc"), Choice(("", "hello", "hello there")))),
    Sequence((Literal("hello"), Pattern("[a-z ]{0,9}"))),
    Lark('start: "hello " ("he" | "hello")+ /[^z]*/'),
]


class AtOnce:
    """Does jobs where they are ordered, and counts them."""

    def __init__(self) -> None:
        self.num_jobs = 0

    def put(self, job: Callable[[], None]) -> None:
        self.num_jobs += 1
        job()


def driven(constraint: CompiledConstraint) -> tuple[GrammarMatcher, AtOnce]:
    threads = AtOnce()
    told: dict[str, Any] = {"table": constraint._table, "on_close": lambda *_told: None}
    return GrammarMatcher(constraint._copy(), threads=threads, **told), threads  # type: ignore[arg-type]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_the_answer_is_what_the_mask_would_hold(
    compiler: ConstraintCompiler, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where hardly any token may come, which is not asked about otherwise."""
    always = property(lambda _: True, lambda _, __: None)
    monkeypatch.setattr(GrammarMatcher, "_held_many", always, raising=False)
    constraint = compiled(compiler, part)
    answers = dict.fromkeys([(is_allowed, answer) for is_allowed in (False, True) for answer in (False, True)], 0)
    for seed in range(25):
        drawn = random.Random(seed)
        masked, asked = driven(constraint)[0], driven(constraint)[0]
        for _ in range(30):
            tokens = allowed(masked)
            asked.start(lazily=True)
            assert asked.is_deferred == (not asked._forced)
            token_id = drawn.choice([drawn.choice(tokens), drawn.choice([*range(520), 10_000, IM_START, *END_IDS])])
            answer = asked.admits(token_id)
            answers[token_id in tokens, answer] += 1
            assert not asked.is_deferred
            if not answer:
                assert not asked.admits(token_id)
                assert asked.wait(0)
                assert (asked.mask() == masked.mask()).all()
                assert asked.sole() == masked.sole()
                if token_id in tokens:
                    assert masked.sole() is not None or token_id in {*END_IDS, IM_START}
                token_id = drawn.choice(tokens)
            if token_id in END_IDS:
                break
            assert asked.may_end == masked.may_end
            for matcher in (masked, asked):
                matcher.commit(token_id)
    assert answers[False, True] == 0
    assert answers[True, True] > 20
    assert answers[False, False] > 20


def test_most_of_a_text_is_asked_about_and_the_rest_has_masks(compiler: ConstraintCompiler) -> None:
    matcher, threads = driven(compiled(compiler, PERSON))
    text, jobs = '{"name":"some name"', []
    for character in text.encode():
        before = threads.num_jobs
        matcher.start(lazily=True)
        if not matcher.admits(character):
            assert matcher.wait(0)
            assert character in allowed(matcher)
        jobs.append(threads.num_jobs - before)
        matcher.commit(character)
    #                {  "  n  a  m  e  "  :  "  s  o  m  e     n  a  m  e  "
    assert jobs == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, *[0] * 9]
    matcher.start(lazily=True)
    assert not matcher.admits(ord("?"))  # forced, so the mask is there
    assert threads.num_jobs == 2
    assert matcher.sole() == ord(",")
    matcher.commit(ord(","))
    matcher.start(lazily=True)
    assert not matcher.is_deferred


def test_a_token_that_may_not_come_costs_its_mask_and_nothing_else(compiler: ConstraintCompiler) -> None:
    matcher, threads = driven(compiled(compiler, FREE))
    assert ord("a") in allowed(matcher)
    matcher.commit(ord("a"))
    assert not matcher.admits(ord("b"))  # nobody deferred anything
    for _ in range(2):
        matcher.start(lazily=True)
    assert matcher.is_deferred
    assert not matcher.admits(ord("!"))
    assert threads.num_jobs == 2
    assert ord("!") not in allowed(matcher)
    matcher.commit(ord("b"))
    for look in (matcher.mask, lambda: matcher.wait(0)):
        matcher.start(lazily=True)
        deferred = [matcher.is_deferred]
        look()
        assert [*deferred, matcher.is_deferred] == [True, False]
        assert ord("c") in allowed(matcher)
        matcher.commit(ord("c"))
    assert threads.num_jobs == 4
    matcher.start()
    assert threads.num_jobs == 5
    with pytest.raises(ConstraintFailed, match="cannot go on"):
        matcher.commit(ord("!"))


def test_where_text_is_forced_another_way_to_write_it_is_not_admitted(compiler: ConstraintCompiler) -> None:
    """Masks there hold one token alone, though the grammar would take the text in other tokens too."""
    matcher, threads = driven(compiled(compiler, Sequence((Until("!"), Literal("hello"), Choice(("x", "y"))))))
    for character in "ab!":
        assert ord(character) in allowed(matcher)
        matcher.commit(ord(character))
    assert matcher._matcher.deep_copy().try_consume_tokens([ord("!"), PIECE_IDS["hello"]]) == 2
    matcher.start(lazily=True)
    assert matcher.is_deferred
    assert not matcher.admits(PIECE_IDS["hello"])
    assert matcher.sole() == ord("h")
    assert allowed(matcher) == [ord("h")]
    assert threads.num_jobs == 3


def test_another_token_than_the_admitted_one_is_looked_at(compiler: ConstraintCompiler) -> None:
    matcher, _ = driven(compiled(compiler, FREE))
    allowed(matcher)
    matcher.commit(ord("a"))
    matcher.start(lazily=True)
    assert matcher.admits(ord("b"))
    with pytest.raises(ConstraintFailed, match="cannot go on"):
        matcher.commit(ord("!"))


def test_where_asking_is_dear_nothing_is_asked_again(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher, _ = driven(compiled(compiler, FREE))
    allowed(matcher)
    matcher.commit(ord("a"))
    matcher.start(lazily=True)
    spent_s = matcher._budget.spent_s
    with monkeypatch.context() as patched:
        patched.setattr(limits, "MAX_QUESTION_S", -1.0)
        assert matcher.admits(ord("b"))
    assert matcher._budget.spent_s > spent_s
    matcher.commit(ord("b"))
    matcher.start(lazily=True)
    assert not matcher.is_deferred


def test_after_a_costly_mask_the_next_one_is_begun_at_once(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher, threads = driven(compiled(compiler, FREE))
    allowed(matcher)
    assert matcher._cost_s > 0
    matcher.commit(ord("a"))
    with monkeypatch.context() as patched:
        patched.setattr(limits, "BEHIND_WAIT_S", 0.0)
        matcher.start(lazily=True)
    assert threads.num_jobs == 2
    matcher.commit(ord("b"))
    matcher.start(lazily=True)
    assert matcher.is_deferred


def test_a_question_that_fails_ends_its_choice(compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> GrammarMatcher:
        matcher, _ = driven(compiled(compiler, FREE))
        allowed(matcher)
        matcher.commit(ord("a"))
        matcher.start(lazily=True)
        return matcher

    class Panicking:
        def __getattr__(self, name: str) -> Any:
            def call(*_arguments: object) -> None:
                raise type("PanicException", (BaseException,), {})("a place in the library's source")

            return call

    class Failing:
        """Answers, and has failed meanwhile."""

        def __init__(self, library: Any) -> None:
            self._library = library

        def is_error(self) -> bool:
            return True

        def __getattr__(self, name: str) -> Any:
            return getattr(self._library, name)

    panicking, wrong, dear, failing = asked(), asked(), asked(), asked()
    failing._matcher = Failing(failing._matcher)  # type: ignore[assignment]
    with pytest.raises(ConstraintFailed, match="cannot go on"):
        failing.admits(ord("b"))
    panicking._matcher = Panicking()  # type: ignore[assignment]
    wrong._matcher.consume_token(ord("!"))  # behind its back
    with pytest.raises(ConstraintFailed, match="the library that computes masks failed"):
        panicking.admits(ord("b"))
    with pytest.raises(ConstraintFailed, match="cannot go on"):
        wrong.admits(ord("b"))
    monkeypatch.setattr(limits, "MAX_MASK_S", -1.0)
    with pytest.raises(ConstraintFailed, match="for one token; -1000 are allowed"):
        dear.admits(ord("b"))
    for matcher in (panicking, wrong, dear, failing):
        assert matcher._failure is not None
        with pytest.raises(ConstraintFailed):
            matcher.wait(0)


@pytest.mark.parametrize("part", [PERSON, FREE, PARTS[-1]], ids=lambda part: type(part).__name__)
def test_answers_are_the_same_with_masks_for_every_token(
    compiler: ConstraintCompiler, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows with ties, with a largest logit that may not come, of text, and of no text."""
    constraint, drawn = compiled(compiler, part), np.random.default_rng(1)
    text = TOKENIZER.encode_plain('{"name":"hello there, \\" é😀 hello","age":12345}! and')

    def script(history: list[int]) -> np.ndarray:
        row = np.random.default_rng(history).integers(-6, 6, 512).astype(np.float32)
        row[text[len(history) % len(text)]] += 9 * (len(history) % 4 > 0)
        row[list(END_IDS)] += 8 * (len(history) % 23 == 0)
        return row

    prompts = [drawn.integers(0, 512, length).tolist() for length in (3, 9, 4, 17)]
    started = GrammarMatcher.start
    told: list[Any] = []
    num_deferred = 0
    for lazily in (True, False):

        def start(matcher: GrammarMatcher, *, lazily: bool = False, is_on: bool = lazily) -> None:
            nonlocal num_deferred
            started(matcher, lazily=lazily and is_on)
            num_deferred += matcher.is_deferred

        monkeypatch.setattr(GrammarMatcher, "start", start)
        driver = Driver(script=script)
        monkeypatch.setattr(limits, "BEHIND_WAIT_S", 60.0)
        for place, prompt in enumerate(prompts):
            driver.add(request(f"r{place}", prompt, 50, eos=END_IDS[0], constraint=None if place == 2 else constraint))
        driver.add(request("seed", prompts[0], 50, constraint=constraint, temperature=0.7, seed=4))
        driver.add(request("told", prompts[1], 50, constraint=constraint, logprobs=2))
        driver.run()
        told.append([driver.tokens, {name: (end.reason, end.error) for name, end in driver.finishes.items()}])
    assert told[0] == told[1]
    assert num_deferred > 20
