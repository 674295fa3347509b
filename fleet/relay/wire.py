"""The values that travel between the front and a replica. Values only: plain enough for any carrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """A request on its way to a replica: its body whole, its key already checked.

    ``key_name`` is the key's name, None where none is asked for: cached prefixes are kept apart by it. ``key_role`` is
    what it opens, which the replica's routes ask of it. ``package`` is the name under which the replicas know the
    model; ``marks`` are for whoever chooses the replica.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    http_version: str
    client: tuple[str, int] | None
    body: bytes
    key_name: str | None
    key_role: str | None = None
    package: str
    marks: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """The tokens that a request may use, told before its first is computed."""

    num_prompt_tokens: int
    max_generated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a replica has to tell since the last piece: ASGI messages in order, what to reserve, what was used so far.

    ``used`` are tokens of prompt and answer, None until the engine has the request. ``is_whole`` says that the answer
    is sent at once, so that its headers may tell what is left of the budget.
    """

    messages: tuple[dict[str, Any], ...] = ()
    reserve: Reserve | None = None
    used: tuple[int, int] | None = None
    is_whole: bool = False
