"""Random schemas and instances over few names and values, so that keywords meet and instances often decide."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

NAMES = ("a", "b", "kind")
VALUES: tuple[Any, ...] = (None, True, False, 0, 1, -2, 2.5, "", "a", "bb", "x-1", [], [1], {}, {"a": 1})
TYPES = ("null", "boolean", "number", "integer", "string", "array", "object")
PATTERNS = ("^a", "b$", "^x-", "^[ab]*$", "^(?!a)")
_INNER = ("not", "if", "then", "else")
_STRICTER = ("items", "contains", "additionalProperties", "propertyNames", "unevaluatedProperties", "unevaluatedItems")


class RandomSchemas:
    """``exact``: only keywords that are rewritten without becoming stricter."""

    def __init__(self, seed: int, *, exact: bool) -> None:
        self.chance = random.Random(seed)
        self.exact = exact
        self.types = [name for name in TYPES if name != "integer" or not exact]
        self.values = [value for value in VALUES if not isinstance(value, dict) or not exact]

    def schema(self, depth: int = 2) -> Any:
        """A schema, nested ``depth`` times at most."""
        schema: dict[str, Any] = {}
        if self.chance.random() < 0.05:
            return self.chance.random() < 0.5
        for _ in range(self.chance.randint(1, 3)):
            key, make = self.chance.choice(self._plain())
            schema[key] = make()
        for _ in range(self.chance.randint(0, 2) if depth else 0):
            schema.update(self._nested(depth - 1))
        return schema

    def instance(self, depth: int = 2) -> Any:
        """A value of any kind."""
        kind = self.chance.random() if depth else 0.0
        if kind < 0.3:
            return self.chance.choice(VALUES)
        if kind < 0.45:
            return [self.instance(depth - 1) for _ in range(self.chance.randint(0, 3))]
        names = self._few((*NAMES, "xb"))
        return {name: self.instance(depth - 1) for name in names}

    def _few(self, values: Any, most: int = 3) -> list[Any]:
        return self.chance.sample(list(values), self.chance.randint(1, most))

    def _plain(self) -> list[tuple[str, Callable[[], Any]]]:
        made: list[tuple[str, Callable[[], Any]]] = [
            ("type", lambda: self.chance.choice(self.types)),
            ("type", lambda: self._few(self.types)),
            ("enum", lambda: self._few(self.values, 4)),
            ("const", lambda: self.chance.choice(self.values)),
            ("minimum", lambda: self.chance.randint(-3, 3)),
            ("exclusiveMaximum", lambda: self.chance.randint(-3, 4)),
            ("pattern", lambda: self.chance.choice(PATTERNS)),
            ("required", lambda: self._few(NAMES)),
            ("dependentRequired", lambda: {name: self._few(NAMES) for name in self._few(NAMES, 2)}),
            *((key, self._count) for key in ("minLength", "maxLength", "minItems", "maxItems")),
        ]
        if not self.exact:
            made += [(key, self._count) for key in ("minProperties", "maxProperties")]
            made += [("uniqueItems", lambda: True), ("multipleOf", lambda: self.chance.choice([1, 0.5, 2]))]
        return made

    def _count(self) -> int:
        return self.chance.randint(0, 2)

    def _several(self, depth: int) -> list[Any]:
        return [self.schema(depth) for _ in range(self.chance.randint(1, 3))]

    def _named(self, depth: int, names: Any) -> dict[str, Any]:
        return {name: self.schema(depth) for name in self._few(names, 2)}

    def _nested(self, depth: int) -> dict[str, Any]:
        choice = self.chance.random()
        if choice < 0.3:
            return {"properties": self._named(depth, NAMES)}
        if choice < 0.6:
            return {self.chance.choice(["allOf", "anyOf", "oneOf"]): self._several(depth)}
        if choice < 0.8 or self.exact:
            return {key: self.schema(depth) for key in self._few(_INNER, 3)}
        if choice < 0.9:
            return {key: self.schema(depth) for key in self._few(_STRICTER, 2)}
        if choice < 0.95:
            return {"patternProperties": self._named(depth, ["^a", "b", "^k"])}
        return {"prefixItems": self._several(depth), "dependentSchemas": self._named(depth, NAMES)}
