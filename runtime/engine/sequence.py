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
    """Choice ``index`` of ``request``.

    ``token_ids``, the prompt and then what was generated, only ever grows, and at its end: slots, prefix index and
    draft keep this very list and a length. ``num_computed`` rows of the slot are valid for
    ``token_ids[:num_computed]``; ``num_prefilled`` of them were written by prefill calls, whose rows are the same
    however the prompt was cut.
    """

    request: Request
    index: int
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
