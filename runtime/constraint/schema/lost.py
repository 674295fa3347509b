"""An alternative that a schema admits and that no rewriting can write, carried along until it is known to matter.

It matters where nothing else of its kind is left; elsewhere leaving it out only makes the answers fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import SchemaRefused


@dataclass(frozen=True, slots=True)
class Lost:
    """Why an alternative cannot be written. ``vital``: without it a whole branch of the schema would be gone."""

    keyword: str
    place: str
    problem: str
    vital: bool = False

    def refusal(self) -> SchemaRefused:
        """The refusal that says so to a client."""
        return SchemaRefused(self.keyword, self.place, self.problem)
