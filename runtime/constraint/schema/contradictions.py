"""Why a schema admits nothing, where the keywords on strings of one schema within it say so by themselves.

Looked for once nothing is known to be admitted; knows no state and changes nothing.
"""

from __future__ import annotations

from runtime.constraint.schema import strings
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.keywords import keywords


def check_strings(context: Context) -> None:
    """Raise SchemaRefused, which names the keywords and their place, for the first schema of which that is so."""
    for located in context.dead():
        if isinstance(located.schema, dict):
            words = keywords(located.schema, located.scope.draft, located.place)
            strings.check_together(context.languages, words, located.place)
