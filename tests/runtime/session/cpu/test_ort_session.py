"""The CPU session's buffers and rows.

Logits take the memory of the largest call, not that of every slot and batch size; rows in between lose nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, decode_logits
from tests.export.tiny_package import write_package

SLOTS = 5
PROMPT = np.arange(20)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[OrtSession]:
    package = write_package(tmp_path / "tiny", with_trt=False)
    kv = KVPlan(num_slots=SLOTS, slot_tokens=64, bytes_per_token=0, budget_bytes=0)
    options = OrtOptions(intra_op_threads=1)
    made = OrtSession(package.path("ort/model.onnx"), package.manifest.shape, kv, options, "float32")
    yield made
    made.close()


def block_of(logits: FloatArray) -> FloatArray:
    """The whole buffer that a call's answer is a view of."""
    assert isinstance(logits.base, np.ndarray)
    return logits.base


def test_every_call_shares_one_buffer_of_the_most_rows(session: OrtSession) -> None:
    answers = [session.prefill(slot, PROMPT, 0, count) for slot in range(SLOTS) for count in (0, 1, 3)]
    for first in range(SLOTS):
        for count in range(1, SLOTS - first + 1):
            answers.append(decode_logits(session, first, np.full(count, 7), np.full(count, len(PROMPT))))
            assert answers[-1].shape == (count, session.info.vocab_size)
    assert {id(block_of(answer)) for answer in answers} == {id(block_of(answers[0]))}
    assert block_of(answers[0]).nbytes == SLOTS * session.info.vocab_size * 4


def test_a_grown_buffer_replaces_the_old_one_and_all_calls_follow(session: OrtSession) -> None:
    """The fault would be a call that still writes to the block that was freed."""
    session.prefill(0, PROMPT, 0, 0)
    before = decode_logits(session, 0, np.array([7]), np.array([len(PROMPT)])).copy()
    old = weakref.ref(block_of(session.prefill(1, PROMPT, 0, 1)))
    last = session.prefill(1, PROMPT, 0, len(PROMPT))[-1].copy()
    assert old() is None
    wide = block_of(session.prefill(1, PROMPT, 0, 2))
    assert len(wide) == len(PROMPT)
    wide[:] = np.nan
    np.testing.assert_array_equal(decode_logits(session, 0, np.array([7]), np.array([len(PROMPT)])), before)
    wide[:] = np.nan
    np.testing.assert_array_equal(session.prefill(1, PROMPT, 0, 1)[0], last)


def test_any_slots_decode_together_and_those_between_keep_their_rows(session: OrtSession) -> None:
    """Slots 1 and 3 hold texts, one of them full; their rows are as they were after a call of 0, 2 and 4."""
    lengths = [5, 64, 9, 20, 3]
    for slot, length in enumerate(lengths):
        session.prefill(slot, np.arange(slot, slot + length) % 90, 0, 0)
    slots = np.array([0, 2, 4])
    expected = [decode_logits(session, slot, np.array([7]), np.array([lengths[slot]])).copy() for slot in slots]
    for _ in range(2):
        answer = session.decode_tokens(slots, np.full(3, 7), np.array([lengths[slot] for slot in slots]))
        assert answer.chosen is None
        np.testing.assert_array_equal(answer.logits(range(3)), np.concatenate(expected))
        np.testing.assert_array_equal(answer.logits([0, 2]), np.concatenate([expected[0], expected[2]]))
    others = [
        decode_logits(session, slot, np.array([8]), np.array([place])).copy() for slot, place in ((3, 20), (1, 62))
    ]
    session.prefill(0, np.arange(3, 23) % 90, 0, 0)
    session.prefill(2, np.arange(1, 63) % 90, 0, 0)
    again = [decode_logits(session, slot, np.array([8]), np.array([place])) for slot, place in ((0, 20),)]
    np.testing.assert_array_equal(again[0], others[0])
    np.testing.assert_array_equal(decode_logits(session, 2, np.array([8]), np.array([62])), others[1])
    for step in range(2):  # a slot takes a longer one's rows, and keeps them through a call of its neighbours
        session.copy_slot(2, 1 + 2 * step, 62)
        session.decode_tokens(slots, np.full(3, 7), np.array([23, 62, 5]) + step)
        one = decode_logits(session, 1 + 2 * step, np.array([8]), np.array([62]))
        np.testing.assert_array_equal(one, others[1])
    assert session.prefill_token(0, np.arange(4), 0).logits([0]).shape == (1, session.info.vocab_size)
