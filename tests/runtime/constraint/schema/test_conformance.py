"""The JSON Schema Test Suite and cases of our own: nothing is wrong, and the document shows what comes out."""

from __future__ import annotations

import json

import pytest

from runtime.constraint.schema.rewriting import rewritten
from tests.paths import ROOT
from tests.runtime.constraint.schema.conformance import Row, judged, suite, table
from tests.runtime.constraint.schema.own_cases import OWN_CASES
from tests.runtime.constraint.schema.walks import Vocabulary, admits, compiled


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.of()


@pytest.fixture(scope="module")
def rows(vocabulary: Vocabulary) -> dict[str, Row]:
    return {name: judged(cases, vocabulary, walks=1) for name, cases in suite().items()}


@pytest.fixture(scope="module")
def own_rows(vocabulary: Vocabulary) -> dict[str, Row]:
    return {name: judged(cases, vocabulary, walks=8) for name, cases in OWN_CASES.items()}


def test_no_text_of_the_suite_is_wrong(rows: dict[str, Row]) -> None:
    assert not [wrong for row in rows.values() for wrong in row.wrong]
    assert sum(row.kept_out for row in rows.values()) > 800


def test_our_cases_are_all_supported_and_exact(own_rows: dict[str, Row]) -> None:
    for name, row in own_rows.items():
        assert not row.wrong, name
        assert not row.refused, name
        assert not row.stricter, name


@pytest.mark.parametrize("text", ['{"\\u0061":"c"}', '{"\\u0078-1":"c"}', '{"a":1,"a":2}', '{ "a":1}', '{"a":1.0}'])
def test_no_other_spelling_slips_past(vocabulary: Vocabulary, text: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "patternProperties": {"^x-": {"type": "integer"}},
        "additionalProperties": {"type": "string"},
    }
    matcher = compiled(rewritten(json.dumps(schema)), vocabulary)
    assert admits(matcher, vocabulary, '{"a":1,"x-1":2,"y":"c"}')
    assert not admits(matcher, vocabulary, text)


def test_the_document_shows_the_table(rows: dict[str, Row], own_rows: dict[str, Row]) -> None:
    document = (ROOT / "docs/structured-outputs.md").read_text(encoding="utf-8")
    assert table(rows) in document
    assert table(own_rows) in document
