"""A chunk of a prompt, computed: its rows, its tokens' scores, and the first token behind it. Knows no plan."""

from __future__ import annotations

import numpy as np

from runtime.engine.call_health import BACKEND_FAILURES
from runtime.engine.drawing import Drawing
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase
from runtime.engine.session_calls import SessionCalls
from runtime.engine.step_plan import PrefillChunk
from runtime.sampling.sampler import SamplerState
from runtime.session.selected import Selected, from_logits
from runtime.session.session import FloatArray

SCORED_ROWS = 32
"""Most rows of logits that exist at once where a prompt is scored: 6 MB of a vocabulary of 49,152 tokens."""


class PrefillCalls:
    """The prefill calls of one step."""

    def __init__(self, calls: SessionCalls, drawing: Drawing, scheduler: Scheduler) -> None:
        self._calls, self._drawing, self._scheduler = calls, drawing, scheduler

    def compute(self, chunk: PrefillChunk) -> int:
        """Compute a chunk of a prompt; returns how many tokens were computed."""
        sequence = chunk.sequence
        if sequence.phase is Phase.FINISHED:
            return 0
        asked: SamplerState | None = None
        if sequence.is_scored:
            rows = self._scored(chunk)
            answer = None if rows is None else from_logits(rows)
        else:
            answer, asked = self._answered(chunk)
        if answer is None:
            return 0
        self._scheduler.commit_prefill(chunk)
        if chunk.is_last:
            try:
                self._drawing.first(answer, sequence, asked)
            except BACKEND_FAILURES as error:
                self._calls.fail(error, [sequence])
        return chunk.stop - chunk.start

    def _answered(self, chunk: PrefillChunk) -> tuple[Selected | None, SamplerState | None]:
        """Compute a chunk whose tokens are not scored; no answer if that failed, which ends the sequence.

        The sampler by whose rules the session chose, if it was asked, comes with it.
        """
        sequence = chunk.sequence
        token_ids = np.array(sequence.token_ids[chunk.start : chunk.stop], np.int64)  # [T]
        if not chunk.is_last:
            rows = self._calls.appended(sequence, token_ids, chunk.start, 0)
            return (None if rows is None else from_logits(rows)), None
        asked = self._drawing.ask([sequence])
        if sequence.phase is Phase.FINISHED:
            return None, None
        try:
            answer = self._calls.session.prefill_token(sequence.slot, token_ids, chunk.start, asked.table)
        except BACKEND_FAILURES as error:
            self._calls.fail(error, [sequence])
            return None, None
        self._calls.health.worked()
        return answer, asked.states[0]

    def _scored(self, chunk: PrefillChunk) -> FloatArray | None:
        """Compute a chunk in pieces and score each at once; the last token's logits [1, V], None if that failed."""
        sequence = chunk.sequence
        rows: FloatArray | None = None
        for start, stop in chunk.pieces(SCORED_ROWS):
            token_ids = np.array(sequence.token_ids[start:stop], np.int64)  # [T]
            rows = self._calls.appended(sequence, token_ids, start, stop - start)
            if rows is None or not self._drawing.score(rows, sequence, start):
                return None
        return None if rows is None else rows[-1:]
