"""What a client's Lark grammar may not say, found before the library reads it.

A grammar in llguidance's dialect can name tokens, draw with a temperature of its own, bound itself in tokens, refer to
other grammars and embed JSON schemas. All of that is the server's; a client's grammar describes text. Knows tokens of
Lark (strings, expressions and comments hide nothing), no rules and no meaning: the library checks the rest.
"""

from __future__ import annotations

import re

from runtime.constraint import limits
from runtime.errors import RequestError

_LEXEME = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*"i?)|(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)|(?P<comment>(?://|\#)[^\n]*)"""
    r"""|(?P<directive>%llguidance\s*\{\s*\}|%[a-z]+)|(?P<special><[^<>\s]+>)|(?P<reference>@[a-zA-Z0-9_\-]+)"""
    r"""|(?P<attributes>\[[^\]\n"]*(?:"(?:\\.|[^"\\\n])*"[^\]\n"]*)*\]\s*:)|(?P<name>!?[_?]?[A-Za-z][_A-Za-z0-9\-]*)"""
    r"""|(?P<count>[{~]\s*\d*\s*(?:,\s*\d*|\.\.\s*\d*)?)|(?P<other>\s+|.)""",
    re.DOTALL,
)
_DIRECTIVES = frozenset({"%import", "%ignore", "%regex", "%if", "%lark"})
_NUMBER = re.compile(r"\d+")


def check_lark(grammar: str) -> None:
    """Raises RequestError, without a field, that names the construct and its line."""
    if not grammar.strip():
        raise RequestError("the grammar is empty; give at least a rule named start")
    size = len(grammar.encode())
    if size > limits.MAX_LARK_BYTES:
        raise RequestError(f"the grammar has {size} bytes; at most {limits.MAX_LARK_BYTES} are allowed")
    before = ":"
    for match in _LEXEME.finditer(grammar):
        kind, text = str(match.lastgroup), match[0]
        if refusal := _refusal(kind, text, before):
            line = grammar.count("\n", 0, match.start()) + 1
            raise RequestError(f"the grammar's line {line}: {refusal}")
        if kind == "other" and text.isspace():
            before = before if "\n" not in text else "\n"
        elif kind != "comment":
            before = text


def _refusal(kind: str, text: str, before: str) -> str | None:
    if kind == "special":
        return f"{text:.40} names a token; a client's grammar describes text alone"
    if kind == "reference":
        return f"{text:.40} refers to another grammar; there is none"
    if kind == "directive" and text not in _DIRECTIVES and not text.endswith("}"):
        return f"{text} is not supported; supported are {', '.join(sorted(_DIRECTIVES))}"
    if kind == "attributes" and text[1 : text.rindex("]")].strip() != "lazy":
        return f"{text:.40} sets attributes of a rule; only [lazy] is supported"
    if kind == "count":
        return _count_refusal(text, before)
    return None


def _count_refusal(text: str, before: str) -> str | None:
    """``x~3..5`` repeats; ``~x`` is everything but x, which includes bytes that are no text."""
    if text.startswith("~") and (before in {":", "|", "(", "[", "&", "~", "\n"} or not _NUMBER.search(text)):
        return "'~' negates, which is not supported: what is left may be no text"
    largest = max((int(number[:9]) for number in _NUMBER.findall(text)), default=0)
    if largest > limits.MAX_LARK_REPEAT:
        return f"a repetition counts to {largest}; at most {limits.MAX_LARK_REPEAT} is allowed"
    return None
