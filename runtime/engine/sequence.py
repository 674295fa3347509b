"""One choice of a request on its way through the engine. Mutable, and touched by the engine thread only.

``num_computed <= len(token_ids)`` always; while decoding, exactly the last sampled token is not yet computed, unless
the sequence is held: then its logits wait for the mask of its constraint.
Carries its sampler, its draft and its matcher for the step that runs it; knows no slots' contents and no text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from runtime.engine.ngram_draft import NgramDraft
from runtime.events import FinishEvent, FinishReason, Timing
from runtime.request import Request
from runtime.sampling.sampler import SamplerState
from runtime.session.session import FloatArray
from runtime.token_mask import Matcher


class Phase(Enum):
    """Where a sequence stands. It only moves forward."""

    WAITING = auto()
    PREFILL = auto()
    DECODE = auto()
    FINISHED = auto()


@dataclass(slots=True, eq=False)
class Sequence:
    """Choice ``index`` of ``request``, which began to wait at ``queued_ns``.

    ``token_ids``, the prompt and then what was generated, only ever grows, and at its end: slots, prefix index and
    draft keep this very list and a length. ``num_computed`` rows of the slot are valid for
    ``token_ids[:num_computed]``; ``num_prefilled`` of them were written by prefill calls, whose rows are the same
    however the prompt was cut. The first ``num_cached`` rows come from another slot: while ``num_computed`` is below,
    they are still being copied. ``draft`` is None where nothing is drafted. ``matcher`` is None without a constraint,
    and before the sequence got its slot. ``held_logits`` [V] are those of the next token while its mask is not there.
    """

    request: Request
    index: int
    queued_ns: int = 0
    token_ids: list[int] = field(init=False)
    sampler: SamplerState = field(init=False)
    draft: NgramDraft | None = None
    matcher: Matcher | None = None
    held_logits: FloatArray | None = None
    phase: Phase = Phase.WAITING
    slot: int = -1
    num_computed: int = 0
    num_prefilled: int = 0
    num_cached: int = 0
    admitted_ns: int = 0
    first_token_ns: int = 0

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)
        self.sampler = SamplerState(self.request, self.index)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_left(self) -> int:
        """Tokens that may still be sampled."""
        return self.request.sampling.max_tokens - self.num_generated

    @property
    def is_copying(self) -> bool:
        """True while rows of its prompt are still to be copied from another slot."""
        return self.num_computed < self.num_cached

    @property
    def is_held(self) -> bool:
        """True while its next token waits for a mask, and there is no token to compute."""
        return self.held_logits is not None

    def close(self) -> None:
        """Give back what it holds beside its slot."""
        self.held_logits = None
        if self.matcher is not None:
            self.matcher.close()
            self.matcher = None

    def proposed_draft(self) -> list[int]:
        """Guesses at the next tokens, never as many as are left to generate; empty when there are none."""
        if self.draft is None:
            return []
        return self.draft.propose(self.num_left - 1)

    def finished(
        self,
        reason: FinishReason,
        now_ns: int,
        *,
        stop_token_id: int | None = None,
        error: str | None = None,
        for_client: bool = False,
    ) -> FinishEvent:
        """The event that tells of the end at ``now_ns``."""
        request = self.request
        return FinishEvent(
            request_id=request.request_id,
            index=self.index,
            reason=reason,
            stop_token_id=stop_token_id,
            num_generated=self.num_generated,
            num_cached_tokens=self.num_cached,
            timing=Timing(request.arrival_ns, self.admitted_ns, self.first_token_ns, now_ns),
            error=error,
            for_client=for_client,
        )
