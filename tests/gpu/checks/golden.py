"""Every precision that the backend runs agrees with its package's golden rows, as the self-test before serving asks."""

from __future__ import annotations

from runtime.loading.self_test import check_session
from tests.gpu.checks.rig import Rig, opened


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
