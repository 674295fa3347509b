"""Languages: sets of texts built by union, sequence, repetition, intersection and complement.

An arena of nodes, each a number; languages written alike are one number. Questions are answered by Brzozowski's
derivatives (Journal of the ACM 11, 1964): what may follow after one character is a language again. Knows no syntax.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from runtime.constraint.schema.regex.characters import EVERY, Characters, united

MAX_NODES = 60_000
MAX_WORK = 120_000
"""Parts looked at while nodes are made: what makes a language costly is not how many nodes it has but how wide."""


class LanguageTooLarge(Exception):
    """An answer would take more nodes or states than allowed."""


class Node(NamedTuple):
    """One language. ``kind`` is set, empty, sequence, either, both, without or repeat."""

    kind: str
    parts: tuple[int, ...] = ()
    characters: Characters = ()
    least: int = 0
    most: int | None = None


@dataclass(slots=True)
class Languages:
    """The arena of one rewriting: it holds at most MAX_NODES nodes, which bounds time and memory."""

    nodes: list[Node]
    _numbers: dict[Node, int]
    _nullable: list[bool]
    _after: dict[tuple[int, int], int]
    _work: int
    nothing: int
    empty: int
    anything: int
    read: dict[str, int]
    """Patterns that were read already."""
    lengths: dict[int, tuple[int, int | None]]
    """What is known of how long a language's texts can be."""

    def __init__(self) -> None:
        self.read, self.lengths, self._work = {}, {}, 0
        self.nodes, self._numbers, self._nullable, self._after = [], {}, [], {}
        self.nothing = self._number(Node("set"), nullable=False)
        self.empty = self._number(Node("empty"), nullable=True)
        self.anything = self.repeat(self.of(EVERY), 0, None)

    def nullable(self, language: int) -> bool:
        """Whether the empty text belongs to it."""
        return self._nullable[language]

    def of(self, characters: Characters) -> int:
        """Texts of one character."""
        return self._number(Node("set", characters=characters), nullable=False)

    def text(self, text: str) -> int:
        """Exactly one text."""
        return self.sequence([self.of(((ord(character), ord(character)),)) for character in text])

    def sequence(self, parts: Iterable[int]) -> int:
        """One after the other. Nests to the right, so that a derivative looks at the first part alone."""
        *before, result = [self.empty, *parts]
        for part in reversed(before):
            result = self._pair(part, result)
        return result

    def either(self, parts: Iterable[int]) -> int:
        """The union."""
        flat: set[int] = set()
        for part in parts:
            node = self.nodes[part]
            flat.update(node.parts if node.kind == "either" else (part,))
        self._spend(len(flat))
        sets = {part for part in flat if self.nodes[part].kind == "set"}
        if len(sets) > 1 or self.nothing in sets:
            flat = (flat - sets) | {self.of(united(self.nodes[part].characters for part in sets))} - {self.nothing}
        if self.anything in flat:
            return self.anything
        if self.empty in flat and any(self._nullable[part] for part in flat if part != self.empty):
            flat.discard(self.empty)
        if len(flat) <= 1:
            return flat.pop() if flat else self.nothing
        return self._number(Node("either", tuple(sorted(flat))), nullable=any(self._nullable[part] for part in flat))

    def both(self, parts: Iterable[int]) -> int:
        """The intersection."""
        flat: set[int] = set()
        for part in parts:
            node = self.nodes[part]
            flat.update(node.parts if node.kind == "both" else (part,))
        flat.discard(self.anything)
        self._spend(len(flat))
        if self.nothing in flat:
            return self.nothing
        if len(flat) <= 1:
            return flat.pop() if flat else self.anything
        return self._number(Node("both", tuple(sorted(flat))), nullable=all(self._nullable[part] for part in flat))

    def without(self, language: int) -> int:
        """The complement: every text outside it."""
        node = self.nodes[language]
        if node.kind == "without":
            return node.parts[0]
        if language in {self.anything, self.nothing}:
            return self.nothing if language == self.anything else self.anything
        if node.kind in {"either", "both"}:
            outside = [self.without(part) for part in node.parts]
            return self.both(outside) if node.kind == "either" else self.either(outside)
        return self._number(Node("without", (language,)), nullable=not self._nullable[language])

    def repeat(self, part: int, least: int, most: int | None) -> int:
        """``least`` to ``most`` times in a row; None: any number."""
        if part in {self.empty, self.nothing}:
            return self.empty if part == self.empty or least == 0 else self.nothing
        if most == 0:
            return self.empty
        if (least, most) == (1, 1):
            return part
        nullable = least == 0 or self._nullable[part]
        return self._number(Node("repeat", (part,), (), least, most), nullable=nullable)

    def after(self, language: int, character: int) -> int:
        """The derivative: what may follow ``character`` in texts of the language that begin with it."""
        known = self._after.get((language, character))
        if known is None:
            known = self._after[language, character] = self._derived(self.nodes[language], character)
        return known

    def holds(self, language: int, text: str) -> bool:
        """Whether the text belongs to the language."""
        if language == self.anything:
            return True
        for character in text:
            language = self.after(language, ord(character))
        return self._nullable[language]

    def _derived(self, node: Node, character: int) -> int:
        kind, parts = node.kind, node.parts
        if kind == "set":
            inside = any(low <= character <= high for low, high in node.characters)
            return self.empty if inside else self.nothing
        if kind == "sequence":
            return self._after_sequence(node, character)
        if kind == "repeat":
            most = None if node.most is None else node.most - 1
            remaining = self.repeat(parts[0], max(node.least - 1, 0), most)
            return self._pair(self.after(parts[0], character), remaining)
        derived = [self.after(part, character) for part in parts]
        if kind == "without":
            return self.without(derived[0])
        return self.both(derived) if kind == "both" else self.either(derived) if kind == "either" else self.nothing

    def _after_sequence(self, node: Node, character: int) -> int:
        options = []
        while True:
            first, rest = node.parts
            options.append(self._pair(self.after(first, character), rest))
            if not self._nullable[first]:
                return self.either(options)
            node = self.nodes[rest]
            if node.kind != "sequence":
                return self.either([*options, self.after(rest, character)])

    def elements(self, language: int) -> list[int]:
        """The parts of a sequence in order; of anything else, itself."""
        found = []
        while (node := self.nodes[language]).kind == "sequence":
            found.append(node.parts[0])
            language = node.parts[1]
        return [*found, language]

    def _pair(self, first: int, rest: int) -> int:
        for part in reversed(self.elements(first)):
            if self.nothing in {part, rest}:
                return self.nothing
            if self.empty in {part, rest}:
                rest = part if rest == self.empty else rest
            elif not part == rest == self.anything:
                nullable = self._nullable[part] and self._nullable[rest]
                rest = self._number(Node("sequence", (part, rest)), nullable=nullable)
        return rest

    def _spend(self, parts: int) -> None:
        self._work += parts
        if self._work > MAX_WORK:
            raise LanguageTooLarge

    def _number(self, node: Node, *, nullable: bool) -> int:
        number = self._numbers.get(node)
        if number is None:
            self._spend(1)
            if len(self.nodes) >= MAX_NODES:
                raise LanguageTooLarge
            number = self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
            self._nullable.append(nullable)
        return number
