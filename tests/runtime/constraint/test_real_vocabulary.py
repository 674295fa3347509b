"""The default model's 49,152 tokens: what the tiny vocabulary of the other tests cannot show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.spec import ConstraintSpec, Json, Literal, Part, Sequence, Until
from runtime.package.manifest import Package
from runtime.text.tokenizer import Tokenizer

pytestmark = pytest.mark.model
SCHEMA = '{"type":"object","properties":{"a":{"const":"😀 €"},"b":{"enum":["left","right"]}},"required":["a","b"]}'


@pytest.fixture(scope="module")
def tokenizer(default_package: Package) -> Tokenizer:
    return Tokenizer.from_package(default_package)


@pytest.fixture(scope="module")
def compiler(default_package: Package, tokenizer: Tokenizer) -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler(tokenizer.vocabulary(default_package.manifest.stop_token_ids))
    yield compiler
    compiler.close()


def compiled(compiler: ConstraintCompiler, part: Part) -> CompiledConstraint:
    return compiler.submit(ConstraintSpec(part, "f")).result(60)


def test_forced_text_has_the_tokens_that_the_model_knows_it_by(
    compiler: ConstraintCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiled(compiler, Json(SCHEMA))
    text = '{"a":"😀 €","b":"left"}'
    expected = tokenizer.encode_plain('{"a":"😀 €","b":"')
    matcher = constraint.matcher()
    forced: list[int] = []
    while tokens := matcher.forced():
        for token_id in tokens:
            matcher.start()
            assert matcher.wait(60)
            bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
            assert np.flatnonzero(bits).tolist() == [token_id]
            matcher.commit(token_id)
        forced += tokens
    assert b"".join(map(tokenizer.token_bytes, forced)).decode() == text[: text.index("left")]
    assert len(forced) <= len(expected) + 1  # the last one may be cut where the choice begins
    assert constraint.accepts_text(text)


def test_reasoning_ends_at_its_mark_however_it_is_spelled(compiler: ConstraintCompiler, tokenizer: Tokenizer) -> None:
    constraint = compiled(compiler, Sequence((Until("</think>"), Literal("yes"))))
    matcher = constraint.matcher()
    for token_id in tokenizer.encode_plain("It is < 3 </thin </think>y"):
        matcher.commit(token_id)
    assert matcher.forced() == tokenizer.encode_plain("es")
    assert not constraint.accepts_text("yes")
