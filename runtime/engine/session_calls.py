"""What a step's calls of the session have in common: prefill's logits, and what a failing call ends.

A failing call ends the sequences whose rows it computed and nobody else; only what ``call_health`` takes for the end of
the device leaves, as DeviceLost. Knows no plan and draws nothing.
"""

from __future__ import annotations

from runtime.engine.call_health import BACKEND_FAILURES, CallHealth, said
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_events import StepEvents
from runtime.errors import DeviceLost
from runtime.session.session import FloatArray, Int64Array, Session


class SessionCalls:
    """``session`` as one step asks it. ``health`` is the engine's, ``told`` the step's."""

    def __init__(self, session: Session, health: CallHealth, told: StepEvents) -> None:
        self.session, self.health, self._told = session, health, told

    def fail(self, error: Exception, sequences: list[Sequence]) -> None:
        """End the sequences of a call that failed. Raises DeviceLost if it was one too many.

        A call none of whose rows counts any more, behind one that failed, says nothing but that.
        """
        if sequences or isinstance(error, DeviceLost):
            self.health.failed(error)
        for sequence in sequences:
            if sequence.phase is not Phase.FINISHED:
                self._told.fail(sequence, said(error))

    def appended(self, sequence: Sequence, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray | None:
        """Logits [num_logits, V] of a prefill call; None if the backend failed, which ends the sequence."""
        try:
            logits = self.session.prefill(sequence.slot, token_ids, start, num_logits)
        except BACKEND_FAILURES as error:
            self.fail(error, [sequence])
            return None
        self.health.worked()
        return logits
