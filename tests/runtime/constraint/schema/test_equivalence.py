"""Random schemas: the rewritten one admits what the original admits, by an independent validator of both."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from runtime.constraint.schema.rewriting import rewritten
from runtime.errors import SchemaRefused
from tests.runtime.constraint.schema.random_schemas import RandomSchemas

SCHEMAS = 120
INSTANCES = 40


def _validators(schema: Any) -> tuple[Any, Any] | None:
    try:
        new = json.loads(rewritten(json.dumps(schema)))
    except SchemaRefused:
        return None
    return jsonschema_rs.Draft202012Validator(schema), jsonschema_rs.Draft202012Validator(new)


@pytest.mark.parametrize("exact", [True, False])
def test_the_rewritten_schema_means_the_same_or_is_stricter_where_it_may_be(exact: bool) -> None:
    rewrites = valid = 0
    for seed in range(SCHEMAS):
        made = RandomSchemas(seed, exact=exact)
        schema = made.schema()
        checks = _validators(schema)
        rewrites += checks is not None
        for instance in (made.instance() for _ in range(INSTANCES if checks else 0)):
            assert checks is not None
            old, new = (check.is_valid(instance) for check in checks)
            valid += old
            assert old == new or (old and not exact), (seed, schema, instance)
    assert rewrites > SCHEMAS / 3
    assert valid > rewrites  # the instances decide something
