"""A second start finds the kernels that the first one compiled, and computes the same."""

from __future__ import annotations

import numpy as np

from runtime.session.session import decode_logits
from tests.gpu.checks.rig import CheckFailed, Model, Rig, check_equal_bits, opened, prompt


def restart_with_a_kernel_cache(rig: Rig) -> str:
    model = rig.model()
    first = _logits(rig, model)
    kept = {path: path.stat().st_size for path in rig.kernel_files(model)}
    second = _logits(rig, model)
    check_equal_bits("the logits after a restart", first, second)
    if rig.compiles_at_run_time and not kept:
        raise CheckFailed("nothing was kept of the kernels that were compiled")
    grown = [path.name for path in rig.kernel_files(model) if path.stat().st_size != kept.get(path)]
    if grown:
        raise CheckFailed(f"the second start compiled again: {grown[0]} is not as large as after the first")
    return f"{sum(kept.values()):,} bytes of kernels kept" if kept else "no kernels are compiled at run time"


def _logits(rig: Rig, model: Model) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    with opened(rig, model) as session:
        text, count = prompt(140, 30, session.info.vocab_size), session.info.num_slots
        rows = [session.prefill(slot, text[: 20 + slot], 0, 2).copy() for slot in range(count)]
        for step in range(3):
            positions = np.arange(count) + 20 + step
            rows.append(decode_logits(session, 0, text[positions], positions).copy())
        return np.concatenate(rows)
