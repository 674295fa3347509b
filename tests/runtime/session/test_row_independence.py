"""A session's promise about batches is computed at its start, and said when it cannot be given."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from runtime.session.row_independence import rows_are_independent
from runtime.session.session import FloatArray, Int64Array
from tests.fakes import ScriptedSession, adding
from tests.runtime.async_driver import with_engine


class _RoundsByBatch(ScriptedSession):
    """Batches of ``differs_at`` rows and more come out one unit in the last place higher."""

    differs_at = 99

    def _decoded(self, slots: tuple[int, ...], token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        logits = super()._decoded(slots, token_ids, positions)
        return np.nextafter(logits, np.float32(np.inf)) if len(token_ids) >= self.differs_at else logits


@pytest.mark.parametrize(("differs_at", "expected"), [(99, True), (16, False), (4, False), (2, False)])
def test_one_bit_in_a_batch_is_found(differs_at: int, expected: bool) -> None:
    session = _RoundsByBatch(lambda history: np.full(512, len(history), np.float32), num_slots=16)
    session.differs_at = differs_at
    assert rows_are_independent(session) is expected


class _RoundsLastRow(ScriptedSession):
    """The last of several rows comes out one unit in the last place higher."""

    def _decoded(self, slots: tuple[int, ...], token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        logits = super()._decoded(slots, token_ids, positions)
        if len(token_ids) > 1:
            logits[-1] = np.nextafter(logits[-1], np.float32(np.inf))
        return logits


class _RoundsBySlot(ScriptedSession):
    """A row that is alone in any slot but the first comes out one unit in the last place higher."""

    def _decoded(self, slots: tuple[int, ...], token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        logits = super()._decoded(slots, token_ids, positions)
        return np.nextafter(logits, np.float32(np.inf)) if slots[0] else logits


@pytest.mark.parametrize(
    ("kind", "expected"), [(ScriptedSession, True), (_RoundsLastRow, False), (_RoundsBySlot, False)]
)
def test_the_last_row_is_compared_as_well_in_its_own_slot(kind: type[ScriptedSession], expected: bool) -> None:
    session = kind(lambda history: np.full(512, history[-1], np.float32), num_slots=2)
    assert rows_are_independent(session) is expected
    assert [(call.slots, call.tokens) for call in session.calls] == [((0, 1), (1, 2)), ((0,), (1,)), ((1,), (2,))]


def test_rows_that_differ_by_their_tokens_are_compared_with_their_own() -> None:
    session = ScriptedSession(lambda history: np.full(512, history[-1], np.float32), num_slots=16)
    assert rows_are_independent(session)


def test_batches_that_do_not_fit_are_not_tried() -> None:
    session = _RoundsByBatch(lambda history: np.full(512, len(history), np.float32), num_slots=3)
    session.differs_at = 4
    assert rows_are_independent(session)
    assert [call.slots for call in session.calls] == [(0, 1), (0,), (1,)]


@pytest.mark.parametrize("promised", [True, False])
def test_what_cannot_be_promised_is_said_at_the_start(promised: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def nothing(_engine: object, _session: object) -> None:
        pass

    with caplog.at_level(logging.WARNING, "powertrain"):
        with_engine(nothing, ScriptedSession(adding, batch_invariant=promised))
    said = "numbers may depend on what runs beside it" in caplog.text
    assert said is not promised
