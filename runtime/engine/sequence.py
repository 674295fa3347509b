"""One choice of a request on its way through the engine. Mutable, and touched by the engine thread only.

``num_computed <= len(token_ids)`` always; while decoding, exactly the last sampled token is not yet computed.
Knows no arrays, no slots' contents and no text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from runtime.request import Request


class Phase(Enum):
    """Where a sequence stands. It only moves forward."""

    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """Choice ``index`` of ``request``. ``order`` is its place in arrival order, ``queued_ns`` when it began to wait.

    ``num_computed`` rows of the slot are valid for ``token_ids[:num_computed]``; ``num_prefilled`` of them were
    written by prefill calls, whose rows are the same however the prompt was cut. The first ``num_cached`` rows come
    from another slot: while ``num_computed`` is below, they are still being copied.
    """

    request: Request
    index: int
    order: int
    queued_ns: int = 0
    token_ids: list[int] = field(init=False)
    phase: Phase = Phase.WAITING
    slot: int = -1
    num_computed: int = 0
    num_prefilled: int = 0
    num_cached: int = 0
    admitted_ns: int = 0
    first_token_ns: int = 0

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def is_copying(self) -> bool:
        """True while rows of its prompt are still to be copied from another slot."""
        return self.num_computed < self.num_cached

    @property
    def rank(self) -> tuple[int, int, int]:
        """Sort key of the waiting queue: lower priority values first, then arrival, then choice."""
        return (self.request.priority, self.order, self.index)
