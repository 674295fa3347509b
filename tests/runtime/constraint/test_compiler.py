"""Compiling: once for all who ask, in a bounded queue, with refusals that are remembered and name their field."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from runtime.constraint import limits
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint_cache import ConstraintCache
from runtime.constraint.spec import Choice, ConstraintSpec, Json, Literal, Part, Pattern, Repeat, Sequence
from runtime.errors import EngineUnavailable, Overloaded, RequestError
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, compiled


@pytest.fixture
def held(compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Part]]:
    """Holds back trials until it is called; then the parts that were tried since."""
    tried: list[Part] = []
    gate = threading.Event()
    run = compiler._trials.run

    def tell(part: Part) -> Any:
        tried.append(part)
        gate.wait(60)
        return run(part)

    monkeypatch.setattr(compiler._trials, "run", tell)

    def release() -> list[Part]:
        gate.set()
        return tried

    return release


def test_who_asks_for_the_same_at_once_and_later_gets_the_same(
    compiler: ConstraintCompiler, held: Callable[[], list[Part]]
) -> None:
    def spec() -> ConstraintSpec:
        return ConstraintSpec(Choice(("once", "for all")), "field")

    futures = [compiler.submit(spec()) for _ in range(5)]
    assert futures[1].cancel()
    tried = held()
    first, *others = [future.result(60) for future in futures if not future.cancelled()]
    assert len(others) == 3
    assert all(other is first for other in others)
    assert compiler.submit(spec()).result(60) is first
    assert tried == [spec().part]
    with pytest.raises(CancelledError):
        futures[1].result(60)


def test_a_full_queue_refuses_at_once(
    compiler: ConstraintCompiler, held: Callable[[], list[Part]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMPILE_QUEUE", 2)
    monkeypatch.setattr(compiler, "_places", threading.BoundedSemaphore(2))
    waiting = [compiler.submit(ConstraintSpec(Literal(f"queue {at}"), "f")) for at in range(2)]
    with pytest.raises(Overloaded, match="2 constraints wait to be compiled"):
        compiler.submit(ConstraintSpec(Literal("one more"), "f"))
    held()
    assert all(future.result(60) for future in waiting)
    compiled(compiler, Literal("one more"))


def test_a_refusal_is_remembered_and_names_the_field_of_whoever_asked(
    compiler: ConstraintCompiler, held: Callable[[], list[Part]]
) -> None:
    tried = held()
    for field in ("guided_regex", "structured_outputs.regex"):
        with pytest.raises(RequestError, match="look-ahead") as refused:
            compiler.submit(ConstraintSpec(Pattern("remembered(?=x)"), field)).result(60)
        assert refused.value.field == field
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("pattern", "least", "most", "words"),
    [
        ("^([a-z]{2}|[a-z]{7})$", 3, 6, "asked of a string: pattern, format, minLength and maxLength (Unsatisfiable"),
        ("^(ab)*$", 2001, 2001, "a string's pattern and lengths take too many steps to be compared (Unable"),
    ],
)
def test_a_string_that_only_the_library_finds_empty_is_refused_without_its_grammar(
    compiler: ConstraintCompiler, pattern: str, least: int, most: int, words: str
) -> None:
    schema = {"type": "string", "pattern": pattern, "minLength": least, "maxLength": most}
    with pytest.raises(RequestError) as refused:
        compiled(compiler, Json(json.dumps(schema)))
    assert words in str(refused.value)
    assert "SearchRegex" not in str(refused.value)


def test_what_went_wrong_by_chance_is_not_remembered(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_part: Part) -> None:
        raise RuntimeError("the process did not start")

    monkeypatch.setattr(compiler._trials, "run", fail)
    with pytest.raises(RuntimeError):
        compiled(compiler, Literal("by chance"))
    monkeypatch.undo()
    compiled(compiler, Literal("by chance"))


def deep(levels: int) -> Part:
    part: Part = Literal("a")
    for _ in range(levels):
        part = Repeat(part)
    return part


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Json('"' + "x" * limits.MAX_SPEC_CHARS + '"'), "1500002 characters; at most 1500000"),
        (deep(limits.MAX_PART_DEPTH), "nests 33 levels deep; at most 32"),
        (Sequence((Literal("a"), deep(limits.MAX_PART_DEPTH))), "nests 34 levels deep; at most 32"),
        (Sequence((Literal("a"),) * limits.MAX_PARTS), "has 4097 parts; at most 4096"),
        (Choice(tuple(map(str, range(limits.MAX_CHOICES + 1)))), "50001 choices; at most 50000"),
    ],
)
def test_what_is_too_large_is_not_even_queued(
    compiler: ConstraintCompiler, held: Callable[[], list[Part]], part: Part, words: str
) -> None:
    with pytest.raises(RequestError, match=words) as refused:
        compiler.submit(ConstraintSpec(part, "field"))
    assert refused.value.field == "field"
    assert held() == []


def test_the_least_recently_used_go_when_the_rest_do_not_fit() -> None:
    cache = ConstraintCache(3, 100)
    parts = [Literal(name) for name in "abcd"]
    futures: list[Any] = [Future() for _ in parts]

    def kept() -> list[bool]:
        return [cache.get(part) is not None for part in parts]

    for part, future in zip(parts[:3], futures, strict=False):
        cache.put(part, future, 10)
    assert cache.get(parts[0]) == futures[0]
    cache.put(parts[3], futures[3], 10)
    assert kept() == [True, False, True, True]
    cache.resize(parts[3], futures[0], 1000)  # another future's size is none of ours
    cache.resize(parts[3], futures[3], 85)
    assert kept() == [False, False, True, True]
    cache.put(parts[0], futures[0], 101)
    assert kept() == [False, False, False, False]
    cache.put(parts[1], futures[1], 100)
    cache.discard(parts[1], futures[2])
    assert kept() == [False, True, False, False]
    cache.discard(parts[1], futures[1])
    cache.put(parts[2], futures[2], 100)
    assert kept() == [False, False, True, False]


def test_after_close_nothing_is_compiled() -> None:
    compiler = ConstraintCompiler(TOKENIZER.vocabulary(END_IDS))
    compiler.prepare()
    assert compiler._table is not None
    before = compiler._trials.pid
    constraint = compiled(compiler, Literal("before"))
    assert (before, compiler._trials.pid is None) == (None, False)
    compiler.close()
    compiler.prepare()
    assert compiler._trials.pid is None
    with pytest.raises(EngineUnavailable):
        compiler.submit(ConstraintSpec(Literal("after"), "f"))
    constraint.matcher().close()
