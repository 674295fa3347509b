"""What a step has to tell: tokens and ends, in the order in which they came. Ends sequences; draws nothing."""

from __future__ import annotations

from collections.abc import Callable

from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.errors import ConstraintFailed
from runtime.events import Event, FinishReason


class StepEvents:
    """One step's events, for whoever has one to add. ``clock`` returns nanoseconds."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], int]) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.events: list[Event] = []

    def end(self, sequence: Sequence, reason: FinishReason, *, stop_token_id: int | None = None) -> None:
        """Take a sequence out of the scheduler and say so."""
        self._scheduler.finish(sequence)
        self.events.append(sequence.finished(reason, self._clock(), stop_token_id=stop_token_id))

    def fail(self, sequence: Sequence, error: str, *, for_client: bool = False) -> None:
        """End a sequence with an error: the client's, or the backend's, after which its rows may be damaged."""
        self._scheduler.finish(sequence, rows_valid=for_client)
        ended = sequence.finished(FinishReason.ERROR, self._clock(), error=error, for_client=for_client)
        self.events.append(ended)

    def refuse(self, sequence: Sequence, error: ConstraintFailed) -> None:
        """End a sequence whose constraint failed."""
        self.fail(sequence, str(error), for_client=True)
