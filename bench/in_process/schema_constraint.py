"""The JSON schema under which whole engine steps are measured, compiled for a package.

A list that is longer than any measurement, of records with what costs differently: keys that are forced, texts of
nearly any token, numbers and choices of a few. Knows no engine and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.spec import ConstraintSpec, Json
from runtime.package.manifest import Package
from runtime.text.tokenizer import Tokenizer
from runtime.token_mask import Constraint

_RECORD = {
    "name": {"type": "string", "maxLength": 24},
    "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "email_address": {"type": "string", "maxLength": 30},
    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 4},
    "active": {"type": "boolean"},
}
_SCHEMA = {
    "type": "array",
    "minItems": 500,
    "items": {"type": "object", "properties": _RECORD, "required": [*_RECORD], "additionalProperties": False},
}


@contextmanager
def schema_constraint(package: Package) -> Iterator[Constraint]:
    """The constraint, valid inside. Raises RequestError where the package's tokens cannot be constrained."""
    compiler = ConstraintCompiler(Tokenizer.from_package(package).vocabulary(package.manifest.stop_token_ids))
    try:
        yield compiler.submit(ConstraintSpec(Json(msgspec.json.encode(_SCHEMA).decode()), "--schema")).result()
    finally:
        compiler.close()
