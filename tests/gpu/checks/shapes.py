"""Decoders of other shapes than the main model's: sliding windows, and heads of 64, 128 and 256 values."""

from __future__ import annotations

import numpy as np

from runtime.session.session import decode_logits
from tests.gpu.checks.rig import Comparison, Rig, both, prompt
from tests.gpu.models import HEADS, WINDOWS


def sliding_windows(rig: Rig) -> str:
    return "; ".join(f"{name}: {_compared(rig, name)}" for name in WINDOWS)


def heads_of_64_128_and_256(rig: Rig) -> str:
    return "; ".join(f"{name}: {_compared(rig, name)}" for name in HEADS)


def _compared(rig: Rig, name: str) -> str:
    """A prompt longer than any window, continued in two slots at once."""
    model = rig.model(name)
    with both(rig, model, 2) as (session, reference):
        compared, texts = Comparison(model.limits), [prompt(seed, 48, session.info.vocab_size) for seed in (110, 111)]
        lengths = [33, 21]
        for slot, text in enumerate(texts):
            ours, theirs = (one.prefill(slot, text[: lengths[slot]], 0, 9).copy() for one in (session, reference))
            compared.add(f"{name}, slot {slot}", theirs, ours)
        for step in range(4):
            positions = np.array(lengths) + step
            ids = np.array([text[position] for text, position in zip(texts, positions, strict=True)])
            ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
            compared.add(f"{name}, step {step}", theirs, ours)
        return compared.explain()
