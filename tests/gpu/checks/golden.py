"""Whatever the backend runs agrees with its package's golden rows, as the self-test before serving asks."""

from __future__ import annotations

import numpy as np

from runtime.loading.self_test import check_session
from runtime.session.session import Session, decode_logits
from tests.gpu.checks.rig import Rig, opened

_STEPS = 20


def every_precision_agrees_with_its_golden_rows(rig: Rig) -> str:
    found = []
    for precision in rig.precisions:
        model = rig.model(precision=precision)
        with opened(rig, model) as session:
            agreement = check_session(session, model.package, model.float_type)
        found.append(f"{precision} {agreement.mean_kl:.2g}/{agreement.max_kl:.2g}")
    return "mean/worst KL: " + ", ".join(found)


def one_slot_is_enough(rig: Rig) -> str:
    model = rig.model()
    with opened(rig, model, 1) as session:
        return check_session(session, model.package, model.float_type).explain()


def every_form_of_attention_agrees(rig: Rig) -> str:
    """Also tells whether a decode step reads only what is filled: no step is judged by its time."""
    model, found = rig.model(), []
    for form, session in rig.forms(model):
        agreement = check_session(session, model.package, model.float_type)
        empty, full = (1e3 * _step_seconds(rig, session, row) for row in (0, session.info.max_model_len - 1))
        found.append(f"{form} {agreement.mean_kl:.2g}/{agreement.max_kl:.2g}, {empty:.3f} and {full:.3f} ms")
    return f"mean/worst KL, a step on empty and on full slots: {'; '.join(found)}" if found else "has one form only"


def _step_seconds(rig: Rig, session: Session, row: int) -> float:
    """Of a decode step of all slots that writes ``row``, whose first run, which may compile, is left out."""
    count = session.info.num_slots
    ids, positions = np.zeros(count, np.int64), np.full(count, row, np.int64)
    for _ in range(3):
        decode_logits(session, 0, ids, positions)
    begin = rig.clock()
    for _ in range(_STEPS):
        decode_logits(session, 0, ids, positions)
    return (rig.clock() - begin) / _STEPS
