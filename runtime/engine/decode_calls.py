"""The decode call of a step: run, or launched behind the one before it and waited for; its tokens taken or drawn.

Whether a call goes ahead is ``runtime.engine.ahead``'s to say. A lone sequence's call may check a draft. Knows no plan.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np

from runtime.engine.ahead import Ahead
from runtime.engine.call_health import BACKEND_FAILURES, said
from runtime.engine.constrained import ALONE_WAIT_S, Constrained, Draft
from runtime.engine.drawing import Drawing
from runtime.engine.flight import Flight, NextRow, known
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.session_calls import SessionCalls
from runtime.engine.step_report import Totals
from runtime.sampling.sampler import SamplerState
from runtime.session.selected import Selected


class DecodeCalls:
    """The decode call of one step. ``ahead`` and ``totals`` are the engine's."""

    def __init__(
        self,
        calls: SessionCalls,
        drawing: Drawing,
        constrained: Constrained,
        scheduler: Scheduler,
        *,
        ahead: Ahead,
        totals: Totals,
    ) -> None:
        self._calls, self._drawing, self._constrained = calls, drawing, constrained
        self._scheduler, self._ahead, self._totals = scheduler, ahead, totals

    def decode(self, sequences: Rows[Sequence]) -> int:
        """Compute the next token of each; returns how many were drawn. Raises DeviceLost, as ``land`` does."""
        if len(sequences) == 1:
            draft = self._constrained.draft(sequences[0])
            if draft.token_ids:
                return self._verify(sequences[0], draft)
        asked = self._drawing.ask(sequences)
        rows = [known(sequence) for sequence in sequences if sequence.phase is not Phase.FINISHED]
        if not rows:
            return 0
        flight = Flight.of(rows, asked.states)
        following = self._ahead.following(flight)
        try:
            if not following:
                return self._landed(flight, self._calls.session.decode_tokens(*flight.arrays(), asked.table))
            flight = self._ahead.launch(flight, asked.table)
        except BACKEND_FAILURES as error:
            self._calls.fail(error, flight.sequences())
            return 0
        return self._land(flight, following)

    def land(self, flight: Flight) -> int:
        """Launch what comes behind a flight, wait for the flight, and draw its tokens; returns how many there were."""
        return self._land(flight, self._ahead.following(flight))

    def _land(self, flight: Flight, following: list[NextRow]) -> int:
        self._ahead.flight = behind = self._follow(following)
        try:
            answer = self._ahead.wait()
        except BACKEND_FAILURES as error:
            self._calls.fail(error, flight.sequences())
            return 0
        drawn = self._landed(flight, answer, behind)
        if behind is not None:
            self._ahead.note_void(behind.num_void())
        return drawn

    def _follow(self, rows: list[NextRow]) -> Flight | None:
        """Launch the call behind one that was not waited for, if there is to be one."""
        if not rows:
            return None
        asked = self._drawing.ask([row.sequence for row in rows], [row.unknown for row in rows])
        try:
            return self._ahead.launch(Flight.of(rows, asked.states), asked.table)
        except BACKEND_FAILURES as error:
            self._calls.health.failed(error)
            self._ahead.refused(said(error))
            return None

    def _landed(self, flight: Flight, answer: Selected, following: Flight | None = None) -> int:
        """Commit the rows of a flight that count, given its answer; returns how many tokens were drawn."""
        if following is not None:
            following.learn(flight, answer.chosen)
        places = flight.places()
        if not places:
            return 0
        sequences = [flight.rows[place].sequence for place in places]
        self._calls.health.worked()
        for sequence in sequences:
            self._scheduler.commit_decode(sequence)
        if flight.draw is not None:
            return self._drawing.take([flight.draw.drawn[place] for place in places], sequences)
        whole = len(places) == len(flight.rows)
        return self._draw(answer if whole else answer.at(places), sequences, [flight.states[place] for place in places])

    def _draw(self, answer: Selected, sequences: list[Sequence], asked: list[SamplerState | None]) -> int:
        """Take or draw a token for each row of an answer; returns how many there were."""
        try:
            return self._drawing.draw_answer(answer, sequences, asked)
        except BACKEND_FAILURES as error:  # of logits that had stayed on a device
            self._calls.fail(error, sequences)
            return 0

    def _verify(self, sequence: Sequence, draft: Draft) -> int:
        """Compute the last token and its draft in one call, and draw tokens as long as they meet the draft.

        Each token is drawn from the model's own distribution given what was drawn before it, exactly as without a
        draft; a draft that is met only saves the call. Returns how many tokens were drawn.
        """
        guesses = draft.token_ids
        token_ids = np.array([sequence.token_ids[-1], *guesses], np.int64)  # [1 + guesses]
        logits = self._calls.appended(sequence, token_ids, sequence.num_computed, len(token_ids))
        if logits is None:
            return 0
        drawn = 0
        for row in range(len(token_ids)):
            self._scheduler.commit_decode(sequence)
            if not self._drawing.draw(logits[row : row + 1], [sequence], ALONE_WAIT_S):
                break  # the sequence ended, or is held with this row's logits
            drawn += 1
            if sequence.phase is Phase.FINISHED or row == len(guesses) or sequence.token_ids[-1] != guesses[row]:
                break
        accepted = max(0, drawn - 1)
        self._totals.drafted_tokens += len(guesses)
        self._totals.accepted_tokens += accepted
        if sequence.draft is not None and not draft.is_forced:
            sequence.draft.report(len(guesses), accepted)
        return drawn
