"""A language's deterministic automaton: whether it holds any text, and the same language without complements.

The automaton is the finite set of the language's derivatives. Knows no syntax.
"""

from __future__ import annotations

from itertools import pairwise

from runtime.constraint.schema.regex.characters import EVERY, Characters, united
from runtime.constraint.schema.regex.language import Languages, LanguageTooLarge

MAX_STATES = 300
"""States of one automaton. Its regular expression can grow with the square of them, and faster."""


def is_nothing(languages: Languages, language: int) -> bool:
    """Whether no text belongs to it. Raises LanguageTooLarge where that takes over MAX_STATES states."""
    blocks = _blocks(languages, language)
    seen, waiting = {language}, [language]
    while waiting:
        state = waiting.pop()
        if languages.nullable(state):
            return False
        for block in blocks:
            target = languages.after(state, block[0][0])
            if target != languages.nothing and target not in seen:
                seen.add(target)
                waiting.append(target)
        if len(seen) > MAX_STATES:
            raise LanguageTooLarge
    return True


def without_complements(languages: Languages, language: int) -> int:
    """The same language built of sets, sequences, unions and repetitions alone, by eliminating states.

    Raises LanguageTooLarge where the automaton has over MAX_STATES states.
    """
    edges = _edges(languages, language)
    start, end = -1, -2
    edges[start] = {language: languages.empty}
    for state in [state for state in edges if state != start]:
        if languages.nullable(state):
            edges[state][end] = languages.empty
    while inner := [state for state in edges if state != start]:
        _eliminate(languages, edges, min(inner, key=lambda state: _cost(edges, state)))
    return edges[start].get(end, languages.nothing)


def _cost(edges: dict[int, dict[int, int]], state: int) -> int:
    return sum(state in targets for targets in edges.values()) * len(edges[state])


def _eliminate(languages: Languages, edges: dict[int, dict[int, int]], state: int) -> None:
    targets = edges.pop(state)
    loop = targets.pop(state, None)
    around = languages.empty if loop is None else languages.repeat(loop, 0, None)
    for sources in edges.values():
        into = sources.pop(state, None)
        if into is None:
            continue
        for target, out in targets.items():
            path = languages.sequence((into, around, out))
            known = sources.get(target)
            sources[target] = path if known is None else languages.either((known, path))


def _edges(languages: Languages, language: int) -> dict[int, dict[int, int]]:
    """State -> target -> the characters that lead there, as a language; states that reach no end are left out."""
    blocks = _blocks(languages, language)
    edges: dict[int, dict[int, int]] = {}
    waiting = [language]
    while waiting:
        state = waiting.pop()
        if state in edges:
            continue
        spans: dict[int, list[Characters]] = {}
        for block in blocks:
            spans.setdefault(languages.after(state, block[0][0]), []).append(block)
        edges[state] = {target: languages.of(united(sets)) for target, sets in spans.items()}
        waiting.extend(edges[state])
        if len(edges) > MAX_STATES:
            raise LanguageTooLarge
    alive = {state for state in edges if languages.nullable(state)}
    while more := {state for state in edges if state not in alive and alive & edges[state].keys()}:
        alive |= more
    return {
        state: {target: by for target, by in targets.items() if target in alive}
        for state, targets in edges.items()
        if state in alive or state == language
    }


def _blocks(languages: Languages, language: int) -> list[Characters]:
    """A partition of all characters into ranges that no set within the language tells apart."""
    seen, waiting, cuts = {language}, [language], {low for low, _ in EVERY} | {high + 1 for _, high in EVERY}
    while waiting:
        node = languages.nodes[waiting.pop()]
        for low, high in node.characters:
            cuts |= {low, high + 1}
        fresh = set(node.parts) - seen
        seen |= fresh
        waiting.extend(fresh)
    points = sorted(cuts)
    spans = [(low, high - 1) for low, high in pairwise(points)]
    return [(span,) for span in spans if any(low <= span[0] <= high for low, high in EVERY)]
