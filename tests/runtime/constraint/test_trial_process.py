"""What crashes, hangs or eats memory does so in the process that tries constraints, and costs one request."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import llguidance
import msgspec
import pytest

from runtime.constraint import limits, trial_worker
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.lexer_steps import lexer_steps
from runtime.constraint.spec import (
    Choice,
    ConstraintSpec,
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
    Until,
)
from runtime.constraint.trial import Trials
from runtime.errors import RequestError
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, compiled, walk

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
SLOW = Json('{"type":"integer","multipleOf":1000003,"minimum":0,"maximum":100000000000000000}')


@linux
def test_what_needs_too_much_memory_ends_the_process_and_the_next_one_is_served(compiler: ConstraintCompiler) -> None:
    compiled(compiler, Literal("first"))
    first = compiler._trials.pid
    taken = r"given up after 0\.\d\d s of computing, last seen with \d+ MiB$"
    with pytest.raises(RequestError, match=rf"needs more than the 96 MiB of memory and 4 of stack .*; it was {taken}"):
        compiled(compiler, Json(json.dumps({"const": "x y" * 300_000})))
    assert compiler._trials.pid not in {first, None}
    assert walk(compiled(compiler, Literal("next")), 0).text == "next"
    text = (Path("/proc") / str(compiler._trials.pid) / "limits").read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("Max address space"))
    assert int(line.split()[3]) < 2**29 + limits.TRIAL_MEMORY_BYTES


def test_what_computes_for_too_long_is_killed(compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(compiler, Literal("before"))
    first = compiler._trials.pid
    monkeypatch.setattr(limits, "TRIAL_CPU_S", 0.05)
    monkeypatch.setattr(limits, "TRIAL_DEADLINE_S", 60.0)
    limit = r"needs more than the 0\.05 s of computing, or 60 s by the clock, that compiling may take"
    with pytest.raises(RequestError, match=rf"{limit}; it was given up after (0\.(0[5-9]|[1-9]\d)|\d+\.\d\d) s"):
        compiled(compiler, SLOW)
    assert compiler._trials.pid != first
    monkeypatch.undo()
    with pytest.raises(RequestError, match=limit):
        compiled(compiler, SLOW)  # remembered: it takes what it takes
    compiled(compiler, Literal("after"))


def test_what_sleeps_is_killed_at_its_deadline(compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(compiler, Literal("awake"))
    first = compiler._trials.pid
    assert first is not None
    monkeypatch.setattr(limits, "TRIAL_DEADLINE_S", 0.1)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(RequestError, match=r"or 0\.1 s by the clock, .* given up after 0\.00 s of computing$"):
        compiled(compiler, Literal("asleep"))
    assert compiler._trials.pid != first
    monkeypatch.undo()
    assert walk(compiled(compiler, Literal("asleep")), 0).text == "asleep"  # it was not the constraint's fault


def test_a_process_that_is_ended_from_outside_costs_nobody_an_answer(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(compiler, Literal("before"))
    first = compiler._trials.pid
    ends: list[int] = []
    exchange = compiler._trials._process.exchange

    def ended(job: bytes, deadline_s: float, *, cpu_limit_s: float | None = None) -> bytes:
        if not ends and first is not None:
            ends.append(first)
            os.kill(first, signal.SIGSTOP)  # so that it cannot answer first
            threading.Timer(0.05, os.kill, (first, signal.SIGKILL)).start()
        return exchange(job, deadline_s, cpu_limit_s=cpu_limit_s)

    monkeypatch.setattr(compiler._trials._process, "exchange", ended)
    assert walk(compiled(compiler, Literal("ended")), 0).text == "ended"
    assert compiler._trials.pid not in {first, None}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Literal("word" * 1_500), r"no choice for \d+ tokens in a row; at most 1024"),
        (Json(json.dumps({"const": "word" * 1_500})), r"no choice for \d+ tokens in a row"),
        (Lark('start: A\nA: /a{100}/ & ~B\nB: "b"'), "negates"),
        (Lark("start: " + "(" * 5_000 + '"a"' + ")" * 5_000), "too deeply nested|stack"),
        (
            Lark("start: A\nA: " + " & ".join(f"/(?s:.*){name}(?s:.*)/" for name in "abcdefghijklmnopqrst")),
            r"need more than the 1,000,000 steps allowed \(.*\): it takes 2,\d{3},\d{3}$",
        ),
        (Lark("start: " + " | ".join(f'"a{at}" "b"' for at in range(600))), r"too many alternatives .* max is 500"),
    ],
)
def test_bombs_are_refused_by_what_they_exceed(compiler: ConstraintCompiler, part: Part, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        compiled(compiler, part)
    compiled(compiler, Literal("after"))


@pytest.mark.parametrize(("left_s", "said"), [(1.0, r"\): it takes more than 8,000$"), (0.0, r"\)$")])
def test_steps_beyond_the_limit_are_counted_while_there_is_time(
    left_s: float, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(TOKENIZER.vocabulary(END_IDS))
    monkeypatch.setattr(limits, "INITIAL_LEXER_FUEL", 1_000)
    monkeypatch.setattr(limits, "TRIAL_CPU_S", left_s)
    refusal = trials.run(Lark("start: A\nA: " + " & ".join(f"/(?s:.*){name}(?s:.*)/" for name in "abcdefgh"))).refusal
    assert re.search("steps allowed .*" + said, refusal), refusal
    monkeypatch.setattr(limits, "INITIAL_LEXER_FUEL", 5_000)
    assert lexer_steps(trials._table, llguidance.LLMatcher.grammar_from_regex("a"), 5_000) == ""  # within the limit


def test_a_compiled_constraint_s_memory_is_limited(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Choice(tuple(f"text {at * 7919 % 10_007}" for at in range(3_000)))
    size = compiled(compiler, texts).num_bytes
    assert 50_000 < size < limits.MAX_COMPILED_BYTES
    monkeypatch.setattr(limits, "MAX_COMPILED_BYTES", 50_000)
    with pytest.raises(RequestError, match="MiB once compiled; at most 0 are allowed"):
        compiled(compiler, Choice((*texts.texts, "more")))


def test_parts_pass_to_the_process_and_back() -> None:
    part = Sequence(
        (
            Until("b"),
            Either((Json("{}"), Literal("a"), Lark("x"))),
            Repeat(Pattern("a"), 1, None, ","),
            Choice(("a", "b")),
            Tagged((Tag("<a>", Sequence(()), "</a>", "<"),), at_least_one=True),
        )
    )
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=Part)
    assert decoded == part
    assert hash(decoded) == hash(part)
    assert len({Json("a"), Literal("a")}) == 2


def test_nothing_is_imported_where_no_file_can_be_opened(compiler: ConstraintCompiler) -> None:
    """A function that imports on its way would end the process: each refusal is met inside it once."""
    compiled(compiler, Literal("start"))
    pid = compiler._trials.pid
    for part in (
        Choice(()), Choice(("a", "a")), Pattern("("), Pattern(r"\p{X}"), Lark(""), Lark("start: <a>"), Lark("x"),
        Json("{"), Json('{"type":1}'), Json('{"not":{}}'), Json('{"$ref":"#/x"}'), Json('{"pattern":"("}'),
        Json('{"enum":[1e999]}'), Json('{"type":"number","multipleOf":0.1,"minimum":0.35}'),
        Json('{"type":"string","format":"date-time"}'),
        Json('"\\ud800"'), Json("[" * 90 + "]" * 90), Pattern("a" * 20_000), Literal("a\ud800"),
    ):  # fmt: skip
        error = compiler.submit(ConstraintSpec(part, "field")).exception(timeout=60)
        assert "MiB of memory" not in str(error), part
    assert compiler._trials.pid == pid


def test_every_kind_of_part_is_tried_before_the_process_is_sealed() -> None:
    source = ast.unparse(ast.parse(Path(trial_worker.__file__).read_text(encoding="utf-8")))
    for kind in (Json, Pattern, Choice, Lark, Literal, Until, Sequence, Either, Repeat, Tag, Tagged):
        assert f"{kind.__name__}(" in source
