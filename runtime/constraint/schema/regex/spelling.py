"""A language -> a regular expression in the dialect of llguidance, anchored at both ends.

Writes only what a string of JSON can hold: the library reads a class with NUL and without ``"`` as one that holds
``"``, and cannot write other control characters. Knows nothing of ECMA-262.
"""

from __future__ import annotations

from runtime.constraint.schema.regex.automaton import without_complements
from runtime.constraint.schema.regex.characters import LAST, WRITABLE, Characters, common
from runtime.constraint.schema.regex.language import Languages, LanguageTooLarge, Node

MAX_LENGTH = 100_000
MAX_POSITIONS = 20_000
"""Characters of one pattern, each repetition counted as often as it may occur."""


def spelled(languages: Languages, language: int) -> tuple[str, ...]:
    """Patterns that together admit exactly the language's writable texts. Raises LanguageTooLarge."""
    node = languages.nodes[language]
    parts = node.parts if node.kind == "both" else (language,)
    patterns = []
    for part in parts:
        options = languages.nodes[part].parts if languages.nodes[part].kind == "either" else (part,)
        plain = languages.either(
            option if _is_plain(languages, option) else without_complements(languages, option) for option in options
        )
        if positions(languages, plain) > MAX_POSITIONS:
            raise LanguageTooLarge
        text = _written(languages, plain)
        if len(text) > MAX_LENGTH:
            raise LanguageTooLarge
        patterns.append(f"^(?:{text})$")
    return tuple(patterns)


def spelled_once(languages: Languages, language: int) -> str:
    """One pattern that admits exactly the language's writable texts. Raises LanguageTooLarge."""
    patterns = spelled(languages, language)
    if len(patterns) > 1:
        patterns = spelled(languages, without_complements(languages, language))
    return patterns[0]


def positions(languages: Languages, language: int) -> int:
    """Characters in the language's expression, each repetition counted as often as it may occur."""
    known: dict[int, int] = {}
    for part, children in _bottom_up(languages, language):
        node = languages.nodes[part]
        times = max(node.least, node.most or 1) if node.kind == "repeat" else 1
        known[part] = 1 if node.kind == "set" else times * sum(known[child] for child in children)
    return known[language]


def _is_plain(languages: Languages, language: int) -> bool:
    return all(languages.nodes[part].kind not in {"both", "without"} for part, _ in _bottom_up(languages, language))


def _bottom_up(languages: Languages, language: int) -> list[tuple[int, list[int]]]:
    """Every node within the language once with its children, parts before wholes, whose numbers are higher."""
    children: dict[int, list[int]] = {}
    waiting = [language]
    while waiting:
        part = waiting.pop()
        if part not in children:
            node = languages.nodes[part]
            children[part] = languages.elements(part) if node.kind == "sequence" else list(node.parts)
            waiting.extend(children[part])
    return sorted(children.items())


def _written(languages: Languages, language: int) -> str:
    """Bottom up, each node once, so that neither depth nor sharing costs recursion."""
    texts: dict[int, str] = {}
    total = 0
    for part, children in _bottom_up(languages, language):
        kind = languages.nodes[part].kind
        grouped = [_grouped(languages.nodes[child].kind, texts[child], within=kind) for child in children]
        texts[part] = text = _one(languages.nodes[part], grouped)
        total += len(text)
        if total > 20 * MAX_LENGTH:
            raise LanguageTooLarge
    return texts[language]


def _one(node: Node, parts: list[str]) -> str:
    if node.kind == "set":
        return _class(common(node.characters, WRITABLE))
    if node.kind == "repeat":
        least, most = node.least, node.most
        short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
        return parts[0] + (
            short or (f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}")
        )
    return ("|" if node.kind == "either" else "").join(parts)


def _grouped(kind: str, text: str, *, within: str) -> str:
    loose = (kind == "either" and within != "either") or (within == "repeat" and kind in {"sequence", "repeat"})
    return f"(?:{text})" if loose or kind == "empty" else text


def _class(characters: Characters) -> str:
    if not characters:
        return r"[^\x{0}-\x{10ffff}]"
    if len(characters) == 1 and characters[0][0] == characters[0][1]:
        letter = chr(characters[0][0])
        return letter if letter.isascii() and letter.isalnum() else f"\\x{{{characters[0][0]:x}}}"
    spans = (f"\\x{{{low:x}}}-\\x{{{min(high, LAST):x}}}" for low, high in characters)
    return f"[{''.join(spans)}]"
