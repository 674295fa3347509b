"""The entry: schema text in, schema text that llguidance enforces exactly out, and the options that it needs for that.

Knows the order of the work; knows no keyword.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from runtime.constraint.schema.context import Context, Unfinished
from runtime.constraint.schema.demands import met
from runtime.constraint.schema.document import parsed
from runtime.constraint.schema.failures import failed
from runtime.constraint.schema.references import References
from runtime.constraint.schema.regex.language import LanguageTooLarge
from runtime.constraint.schema.writing import written
from runtime.errors import SchemaRefused

LLGUIDANCE_OPTIONS: Mapping[str, str | bool | None] = MappingProxyType(
    {
        "whitespace_pattern": None,
        "whitespace_flexible": False,
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": False,
        "lenient": False,
        "json_allowed_escapes": 'nrbtf\\"',
        "json_allow_general_unicode_escapes": False,
    }
)
"""What to pass as ``overrides`` with a rewritten schema.

Without ``u`` among the escapes, because the library compares additional names with the listed ones as they are spelled:
``{"\\u0061": ...}`` would pass for a name other than ``a``.
"""


def rewritten(schema_json: str) -> str:
    """An equivalent of a schema, as JSON text, that llguidance enforces exactly under ``LLGUIDANCE_OPTIONS``.

    Every text that it admits is valid under ``schema_json``; not every valid text is admitted (names come in the
    schema's order, for one). Raises SchemaRefused, which names the keyword, its place, and what is allowed.
    """
    references = References(parsed(schema_json))
    context = Context(references, met, failed)
    root = references.root
    try:
        schema = written(context, context.state(root.schema, root.place, root.scope))
    except Unfinished as error:
        raise SchemaRefused("$ref", "", "refers to itself without going into a value, which has no meaning") from error
    except LanguageTooLarge as error:
        raise SchemaRefused("pattern", "", "the schema's patterns together are too large") from error
    except RecursionError as error:
        raise SchemaRefused("schema", "", "goes through too many references at one place") from error
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
