"""How long a language's texts can be, as its expression shows it: bounds, which no text of it lies outside of.

They say that a language holds nothing of some lengths, at once and without an automaton; that it holds something they
cannot say, since lengths between them may be missing. Knows no syntax.
"""

from __future__ import annotations

from runtime.constraint.schema.regex.language import Languages, Node

Lengths = tuple[int, int | None]
"""The fewest and the most characters; None: any number."""


def lengths(languages: Languages, language: int) -> Lengths:
    """Bounds on the number of characters of the language's texts. The fewest may exceed the most: there is no text."""
    waiting = [language]
    while waiting:
        number = waiting[-1]
        unknown = [part for part in languages.nodes[number].parts if part not in languages.lengths]
        if unknown:
            waiting += unknown
        else:
            languages.lengths[number] = _of(languages, number)
            waiting.pop()
    return languages.lengths[language]


def _of(languages: Languages, number: int) -> Lengths:
    """Those of a language whose parts' are known."""
    node = languages.nodes[number]
    parts = [languages.lengths[part] for part in node.parts]
    fewest, most = [few for few, _ in parts], [many for _, many in parts if many is not None]
    if node.kind == "sequence":
        return sum(fewest), sum(most) if len(most) == len(parts) else None
    if node.kind == "either":
        return min(fewest), max(most) if len(most) == len(parts) else None
    if node.kind == "both":
        return max(fewest), min(most) if most else None
    if node.kind == "repeat":
        return _repeated(node, *parts[0])
    if node.kind == "without":
        return (0 if languages.nullable(number) else 1), None
    return (1, 1) if node.kind == "set" else (0, 0)


def _repeated(node: Node, fewest: int, most: int | None) -> Lengths:
    many = None if node.most is None or most is None else node.most * most
    return node.least * fewest, many
