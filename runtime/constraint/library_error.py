"""What llguidance says of a grammar or a text that it cannot go on with -> a sentence for whoever asked for it.

Its first line names a cause; what stands in brackets after two spaces, and the lines that follow, quote a grammar that
the client never wrote. Compiles nothing.
"""

from __future__ import annotations

from runtime.constraint import limits

OUT_OF_STEPS = ("initial lexer configuration", "lexer precomputation failed", "fuel exhausted when checking relevance")
"""In what the library says of patterns that take more than ``INITIAL_LEXER_FUEL`` steps."""

_MAX_CHARS = 300
_TOO_MANY_STEPS = f"its patterns need more than the {limits.INITIAL_LEXER_FUEL:,} steps allowed"
# What the library says -> what it means. The numbers that it names itself are kept.
_MEANINGS = (
    ("NoExtension", "no text satisfies it"),
    ("no extension", "no text satisfies it"),
    ("Unable to determine if regex is empty", "a string's pattern and lengths take too many steps to be compared"),
    ("Regex is empty", "no text satisfies all that is asked of a string: pattern, format, minLength and maxLength"),
    ("Too many items", "it can be read in too many ways"),
    ("Current row has", "it has too many alternatives in one place"),
    ("schema too large", "the schema is too large once its parts are merged"),
    ("grammar size", f"it needs more than the {limits.MAX_GRAMMAR_SIZE:,} symbols allowed"),
    *((words, _TOO_MANY_STEPS) for words in OUT_OF_STEPS),
    ("too many expressions", f"its patterns need more than the {limits.STEP_LEXER_FUEL:,} steps allowed for one token"),
    ("too many states", f"its patterns have more than the {limits.MAX_LEXER_STATES:,} states allowed"),
)


def meaning(message: str) -> str:
    """One line, at most 300 characters."""
    first = (message.splitlines() or ["it cannot be compiled"])[0].split(":  (")[0]
    told = next((f"{meaning} ({first})" for words, meaning in _MEANINGS if words in first), first)
    return told[:_MAX_CHARS]
