"""An alternative that a schema admits and that no rewriting can write, carried along until it is known to matter.

It matters where nothing else of its kind is left; elsewhere leaving it out only makes the answers fewer. Also what is
left out (*spare*) is carried on, since the schema still admits its values: whoever asks whether two schemas
have a value in common has to be told.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import SchemaRefused


@dataclass(frozen=True, slots=True)
class Lost:
    """Why an alternative cannot be written.

    ``vital``: without it a whole branch of the schema would be gone. ``spare``: it is left out, and nobody minds.
    """

    keyword: str
    place: str
    problem: str
    vital: bool = False
    spare: bool = False

    def refusal(self) -> SchemaRefused:
        """The refusal that says so to a client."""
        return SchemaRefused(self.keyword, self.place, self.problem)


def either(one: Lost | None, other: Lost | None) -> Lost | None:
    """Why what two alternatives have in common cannot be written; spare where one of them is left out anyway."""
    return other if one is None or (other is not None and other.spare) else one
