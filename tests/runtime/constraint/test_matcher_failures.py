"""Every way in which a choice's matcher can fail, and that it fails alone."""

from __future__ import annotations

import threading
from typing import Any

import llguidance
import pytest

from runtime.constraint import limits
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.matcher import GrammarMatcher
from runtime.constraint.spec import (
    Lark,
    Literal,
    Pattern,
    Sequence,
    Until,
)
from runtime.errors import ConstraintFailed
from tests.api.programs import IM_START
from tests.runtime.constraint.walks import END_IDS, accepts_text, allowed, compiled, walk, with_text

DIGITS = Pattern("[0-9]{2,4}")


def test_what_the_library_finds_wrong_later_ends_its_choice_with_the_next_mask(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, DIGITS).matcher()
    assert allowed(matcher)
    matcher.commit(ord("1"))
    matcher._matcher.consume_token(ord("?"))  # behind its back
    matcher.start()
    with pytest.raises(ConstraintFailed, match="cannot go on"):
        matcher.wait(60)


def test_a_token_that_may_not_come_ends_the_way(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, DIGITS)
    for token_id in (ord("x"), END_IDS[0], IM_START, 10_000):
        matcher = constraint.matcher()
        with pytest.raises(ConstraintFailed):
            matcher.commit(token_id)
        for call in (matcher.mask, matcher.forced, matcher.start):
            with pytest.raises(ConstraintFailed):
                call()
        with pytest.raises(ConstraintFailed):
            matcher.num_allowed([1])
        matcher.close()
    assert walk(constraint, 0).has_ended


class _Failing:
    """A library matcher that fails with a mask, and answers what the library then does: end tokens."""

    def __init__(self, library: llguidance.LLMatcher) -> None:
        self._library = library

    def is_error(self) -> bool:
        return True

    def get_error(self) -> str:
        return "lexer error: too many states: 9 >= 9\n<non-verbose/>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def test_a_failure_of_the_library_is_never_a_mask_of_end_tokens(compiler: ConstraintCompiler) -> None:
    matcher = compiled(compiler, Pattern("a?")).matcher()
    matcher._matcher = _Failing(matcher._matcher)  # type: ignore[assignment]
    matcher.start()
    with pytest.raises(ConstraintFailed, match=r"cannot go on: its patterns have more than the 50,000 states allowed"):
        matcher.wait(60)
    with pytest.raises(ConstraintFailed):
        matcher.mask()


def test_an_ambiguous_grammar_ends_its_own_choice(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, Lark('start: s\ns: s s s | s s | "a" | "b"'))
    matcher = constraint.matcher()

    def go_on() -> None:
        for _ in range(400):
            assert set(allowed(matcher)) - set(END_IDS)
            matcher.commit(ord("a"))

    with pytest.raises(ConstraintFailed, match=r"cannot go on|can be read in too many ways"):
        go_on()
    matcher.close()


def test_one_mask_above_the_limit_ends_its_own_choice_only(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = compiled(compiler, DIGITS)
    slow, other = constraint.matcher(), constraint.matcher()
    other.start()
    assert other.wait(60)
    with monkeypatch.context() as patched:
        patched.setattr(limits, "MAX_MASK_S", -1.0)
        slow.start()
        assert slow._busy.acquire(timeout=60)
        slow._busy.release()
    for call in (slow.mask, lambda: slow.wait(0)):
        with pytest.raises(ConstraintFailed, match=r"needed \d+ ms for one token; -1000 are allowed"):
            call()
    assert len(other.mask()) == 16
    other.commit(ord("1"))


def test_what_all_masks_may_take_grows_with_the_tokens(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = compiled(compiler, Pattern("a*")).matcher()
    monkeypatch.setattr(limits, "MASK_CREDIT_S", 60.0)
    monkeypatch.setattr(limits, "MASK_CREDIT_PER_TOKEN_S", -25.0)
    for _ in range(3):
        spent_s = matcher._budget.spent_s
        assert allowed(matcher)
        assert matcher._budget.spent_s > spent_s
        matcher.commit(ord("a"))
    with pytest.raises(ConstraintFailed, match=r"s for 3 tokens; -15\.00 are allowed"):
        allowed(matcher)


def test_a_mask_under_way_is_given_up_at_its_limit(compiler: ConstraintCompiler) -> None:
    """The library cannot be stopped: the choice ends all the same, and the thread goes on when it is done."""
    constraint = compiled(compiler, DIGITS)
    matcher, gate = constraint.matcher(), threading.Event()
    library = matcher._matcher

    class Busy:
        def __getattr__(self, name: str) -> Any:
            if name == "unsafe_compute_mask_ptr":
                while not gate.is_set():
                    sum(range(1_000))
            return getattr(library, name)

    matcher._matcher = Busy()  # type: ignore[assignment]
    matcher.start()

    def look_for_long() -> None:
        for _ in range(20_000):
            assert not matcher.wait(0.001)

    with pytest.raises(ConstraintFailed, match=r"needed \d+ ms for one token; 50 are allowed"):
        look_for_long()
    matcher.close()
    other = constraint.matcher()
    assert allowed(other)
    gate.set()
    assert matcher._busy.acquire(timeout=60)


class _Panicking:
    """A library matcher whose every call panics as pyo3 does: with no Exception."""

    def __getattr__(self, name: str) -> Any:
        def call(*_arguments: object) -> None:
            raise type("PanicException", (BaseException,), {})("a place in the library's source")

        return call


def test_a_panic_in_the_library_is_this_choice_s_failure(compiler: ConstraintCompiler) -> None:
    healthy = compiled(compiler, DIGITS).matcher()
    heard: list[tuple[int, bool]] = []
    matcher = GrammarMatcher(
        _Panicking(),  # type: ignore[arg-type]
        table=healthy._table,
        threads=healthy._threads,
        on_close=lambda *told: heard.append(told),
    )
    with pytest.raises(ConstraintFailed, match="the library that computes masks failed"):
        matcher.forced()
    matcher.start()
    with pytest.raises(ConstraintFailed, match="the library that computes masks failed") as failed:
        matcher.wait(60)
    assert "source" not in str(failed.value)
    matcher.close()
    assert heard == [(0, False)]
    assert allowed(healthy)  # the thread that met the panic goes on


def test_closing_does_not_wait_for_a_mask_under_way(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, DIGITS)
    gate = threading.Event()
    matcher = constraint.matcher()
    for _ in range(limits.MASK_THREADS):
        matcher._threads.put(lambda: gate.wait(60))  # type: ignore[arg-type]
    matcher.start()
    assert not matcher.wait(0)
    matcher.close()
    gate.set()
    assert matcher.wait(60)


def test_a_constraint_is_compiled_anew_after_many_tokens_and_after_a_failure(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = compiled(compiler, Sequence((Until("!"), Literal("?"))))
    renewed = threading.Event()
    refresh = constraint.refresh

    def tell(origin: llguidance.LLMatcher) -> None:
        refresh(origin)
        renewed.set()

    monkeypatch.setattr(constraint, "refresh", tell)
    origin = constraint._origin
    monkeypatch.setattr(limits, "RECYCLE_TOKENS", 6)
    with_text(constraint, "abcde").close()
    assert constraint._origin is origin
    with_text(constraint, "a").close()
    assert renewed.wait(20)
    assert constraint._origin is not origin
    assert accepts_text(constraint, "abc!?")

    renewed.clear()
    origin, matcher = constraint._origin, constraint.matcher()
    with pytest.raises(ConstraintFailed):
        matcher.commit(IM_START)
    matcher.close()
    assert renewed.wait(20)
    assert constraint._origin is not origin
