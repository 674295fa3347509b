"""What becomes of cases with known answers: refused, supported, or wrong; the table of docs/structured-outputs.md."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import islice, permutations
from typing import Any

from runtime.constraint.schema.rewriting import rewritten
from runtime.errors import SchemaRefused
from tests.paths import ROOT
from tests.runtime.constraint.schema.walks import Vocabulary, admits, compiled, is_valid, validator, walked

SUITE = ROOT / "tests/golden/json_schema_test_suite/draft2020-12.json"
MOST_ORDERS = 24


@dataclass(slots=True)
class Row:
    """One group of cases. ``wrong``: a text that should not be admitted, or a walk that got stuck."""

    supported: int = 0
    refused: list[str] = field(default_factory=list)
    admitted: int = 0
    stricter: list[str] = field(default_factory=list)
    kept_out: int = 0
    wrong: list[str] = field(default_factory=list)


def judged(cases: list[Any], vocabulary: Vocabulary, *, walks: int) -> Row:
    """A group's row: cases are (description, schema, [(instance, whether it is valid), ...])."""
    row = Row()
    for description, schema, tests in cases:
        try:
            matcher = compiled(rewritten(json.dumps(schema)), vocabulary)
        except (SchemaRefused, ValueError) as error:
            row.refused.append(f"{description}: {error}")
            continue
        row.supported += 1
        for instance, valid in tests:
            admitted = any(admits(matcher, vocabulary, text) for text in _spellings(instance))
            name = f"{description}: {json.dumps(instance)}"
            row.admitted += valid and admitted
            row.kept_out += not valid and not admitted
            if valid and not admitted:
                row.stricter.append(name)
            if admitted and not valid:
                row.wrong.append(name)
        check = validator(schema)
        for seed in range(walks):
            walk = walked(matcher, vocabulary, seed)
            if walk.error or (walk.finished and not is_valid(check, walk.text)):
                row.wrong.append(f"{description}: {walk.error} {walk.text}")
    return row


def suite() -> dict[str, list[Any]]:
    """The JSON Schema Test Suite's groups, by the names of its files."""
    groups: dict[str, list[Any]] = json.loads(SUITE.read_text(encoding="utf-8"))
    return groups


def table(rows: dict[str, Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| group | schemas supported | refused | wrong | valid texts admitted | stricter |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        counts = (row.supported, len(row.refused), len(row.wrong), row.admitted, len(row.stricter))
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + " |")
    return "\n".join(lines) + "\n"


def _spellings(instance: Any) -> list[str]:
    """An instance compactly, its names in each order up to a limit: a schema's order is not the instance's."""
    dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    if not isinstance(instance, dict):
        return [dump(instance)]
    return [dump(dict(items)) for items in islice(permutations(instance.items()), MOST_ORDERS)]
