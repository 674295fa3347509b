"""What the constraints of a step's sequences say: masks, a likely token that may come, text that must.

Whatever a constraint fails at ends its own sequence. Waits for masks and computes none; knows no session and no plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.engine.sequence import Sequence
from runtime.engine.step_events import StepEvents
from runtime.errors import ConstraintFailed
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.sampler import Sampled, likeliest
from runtime.session.session import FloatArray

ALONE_WAIT_S = 0.002
"""Wait for a mask when nothing else decodes: long for a mask (0.3 ms are rare), short for who comes or goes now."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Guesses at a sequence's next tokens; ``is_forced`` if its constraint leaves no other text."""

    token_ids: list[int]
    is_forced: bool = False


class Constrained:
    """The constraints of one step. ``chooses`` where the session chooses tokens."""

    def __init__(self, told: StepEvents, *, chooses: bool) -> None:
        self._told = told
        self._chooses = chooses

    def begin(self, sequence: Sequence) -> None:
        """Make the matcher of an admitted sequence: its first mask is computed while the model reads the prompt."""
        constraint = sequence.request.constraint
        if constraint is None:
            return
        try:
            sequence.matcher = constraint.matcher()
            sequence.matcher.start()
        except ConstraintFailed as error:
            self._told.refuse(sequence, error)

    def start(self, sequences: Iterable[Sequence]) -> None:
        """Have the next masks computed. After all commits: the threads that this wakes would hold them up.

        A greedy choice whose token nothing else decides does without most of them, where the host draws: what the
        session is to choose it must know before.
        """
        for sequence in sequences:
            try:
                if sequence.matcher is not None:
                    knows_best = not self._chooses and sequence.sampler.takes_best and sequence.draft is None
                    sequence.matcher.start(lazily=knows_best)
            except ConstraintFailed as error:
                self._told.refuse(sequence, error)

    def allowed(self, sequence: Sequence, wait_s: float) -> Allowed | None:
        """What a sequence's constraint allows next; None if that is not known in time, or failed and ended it."""
        matcher = sequence.matcher
        try:
            if matcher is None or not matcher.wait(wait_s):
                return None
            may_end = bool(sequence.request.sampling.stop_token_ids) and matcher.may_end
            return Allowed(matcher.mask(), may_end, matcher.sole())
        except ConstraintFailed as error:
            self._told.refuse(sequence, error)
            return None

    def admitted(self, logits: FloatArray, sequence: Sequence) -> Sampled | None:
        """The likeliest token of a row [V] whose mask is not computed, if the constraint admits it.

        For all rows before any mask is waited for: those that need theirs after all have it computed together.
        """
        matcher = sequence.matcher
        if matcher is None or not matcher.is_deferred:
            return None
        best = likeliest(logits, sequence.sampler)
        try:
            return Sampled(best, None) if best is not None and matcher.admits(best) else None
        except ConstraintFailed as error:
            self._told.refuse(sequence, error)
            return None

    def draft(self, sequence: Sequence) -> Draft:
        """Guesses at the next tokens, as far as the sequence's constraint allows them. May end the sequence.

        What the constraint forces is the best guess. It is drawn all the same: text that must come can often be written
        in other tokens too, and which are likely is the model's to say.
        """
        matcher = sequence.matcher
        if matcher is None or sequence.draft is None:
            return Draft(sequence.proposed_draft())
        try:
            if not matcher.wait(ALONE_WAIT_S):
                return Draft([])
            if forced := matcher.forced():
                return Draft(forced[: min(sequence.num_left - 1, sequence.draft.max_tokens)], is_forced=True)
            draft = sequence.proposed_draft()
            return Draft(draft[: matcher.num_allowed(draft)] if draft else [])
        except ConstraintFailed as error:
            self._told.refuse(sequence, error)
            return Draft([])
