"""One compiler for all tests of constraints: its process is started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.constraint.compiler import ConstraintCompiler
from tests.runtime.constraint.walks import END_IDS, TOKENIZER


@pytest.fixture(scope="session")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler(TOKENIZER.vocabulary(END_IDS))
    yield compiler
    compiler.close()
