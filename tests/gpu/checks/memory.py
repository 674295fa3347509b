"""Too little memory as the model loads is one clear refusal, and leaves the card as it was."""

from __future__ import annotations

import numpy as np

from runtime.errors import PowertrainError
from tests.gpu.checks.rig import CheckFailed, Rig, opened, prompt


def out_of_memory_at_load_is_a_clear_refusal(rig: Rig) -> str:
    model = rig.model()
    with opened(rig, model) as session:  # whatever is kept for the process's life is there now
        text = prompt(130, 20, session.info.vocab_size)
        expected = session.prefill(0, text, 0, 1).copy()
    free = rig.free_bytes()
    with rig.exhausted():
        try:
            rig.open(model).close()
        except PowertrainError as error:
            refusal = str(error)
        else:
            raise CheckFailed("a session was opened on a card without memory")
    if "\n" in refusal or not any(character.isdigit() for character in refusal):
        raise CheckFailed(f"the refusal is not one line with the numbers: {refusal!r}")
    lost = free - rig.free_bytes()
    if lost > rig.memory_noise_bytes:
        raise CheckFailed(f"the refusal left {lost:,} bytes taken")
    with opened(rig, model) as session:
        if not np.array_equal(session.prefill(0, text, 0, 1), expected):
            raise CheckFailed("a session opened after the refusal gives other logits than one opened before")
    return refusal
