"""A decode step that was recorded gives the bits that it gave when its kernels were launched one by one."""

from __future__ import annotations

import numpy as np

from runtime.session.session import FloatArray, Session, decode_logits
from tests.gpu.checks.rig import CheckFailed, Rig, check_equal_bits, opened, prompt

_HELD, _CALLS = 20, 6


def replay_equals_eager(rig: Rig) -> str:
    """Two inputs take turns at one position, so that each replay must have read its own; held against eager calls."""
    model = rig.model()
    with opened(rig, model) as session:
        found = _answers(session)
    with rig.eager(model) as eager:
        first_calls = {(what, call): found[what, call % 2] for what, call in found}
        expected = first_calls if eager is None else _answers(eager)
    for (what, call), rows in found.items():
        check_equal_bits(f"{what}, call {call + 1}", expected[what, call], rows)
        if np.array_equal(rows, found[what, 1 - call % 2]):
            raise CheckFailed(f"{what}: two inputs give one answer, so the second was not read")
    against = "with each other: the library records by itself" if eager is None else "against eager calls"
    return f"{len(found)} calls compared {against}"


def _answers(session: Session) -> dict[tuple[str, int], FloatArray]:
    """(slots, number of the call) -> logits."""
    count, vocab_size = session.info.num_slots, session.info.vocab_size
    answers = {}
    for slot in range(count):
        session.prefill(slot, prompt(100 + slot, _HELD + slot, vocab_size), 0, 0)
    for first in range(count):
        for end in range(first + 1, count + 1):
            inputs = np.arange(first, end) + 1, np.arange(first, end) % (vocab_size - 9) + 9
            for call in range(_CALLS):
                rows = decode_logits(session, first, inputs[call % 2], np.arange(first, end) + _HELD)
                answers[f"slots {first} to {end - 1}", call] = rows.copy()
    return answers
