"""Decode steps: slots at different positions, to a slot's last row, and equal slots with equal answers."""

from __future__ import annotations

import numpy as np

from runtime.session.session import decode_logits
from tests.gpu.checks.rig import CheckFailed, Comparison, Rig, both, opened, prompt, worst_kl

_STEPS = 8


def ragged_slots_to_the_last_row(rig: Rig) -> str:
    """The first slot and, copied from it, the last one end at a slot's last row; those between are short."""
    model = rig.model()
    with both(rig, model) as (session, reference):
        compared, info = Comparison(model.limits), session.info
        long, last = info.max_model_len - _STEPS, info.num_slots - 1
        lengths = [long, *(5 + 4 * slot for slot in range(1, last)), long]
        texts = [prompt(60 + slot, length + _STEPS, info.vocab_size) for slot, length in enumerate(lengths)]
        texts[last] = texts[0]
        for one in (session, reference):
            for slot in range(last):
                one.prefill(slot, texts[slot][: lengths[slot]], 0, 0)
            one.copy_slot(0, last, long // 3)
            one.copy_slot(0, last, long, long // 3)
        for step in range(_STEPS):
            positions = np.array(lengths) + step
            ids = np.array([text[position] for text, position in zip(texts, positions, strict=True)])
            ours, theirs = (decode_logits(one, 0, ids, positions).copy() for one in (session, reference))
            compared.add(f"positions {positions.tolist()}", theirs, ours)
        return compared.explain()


def every_range_of_slots(rig: Rig) -> str:
    """Decode calls over every adjacent range, taking turns, so that a replayed step meets other ranges' between."""
    model = rig.model()
    with both(rig, model) as (session, reference):
        compared, info = Comparison(model.limits), session.info
        texts = [prompt(80 + slot, 40, info.vocab_size) for slot in range(info.num_slots)]
        lengths = [7 + 3 * slot for slot in range(info.num_slots)]
        for slot, text in enumerate(texts):
            for one in (session, reference):
                one.prefill(slot, text[: lengths[slot]], 0, 0)
        ranges = [(first, end) for end in range(1, info.num_slots + 1) for first in range(end)]
        for _ in range(3):
            for first, end in ranges:
                positions = np.array(lengths[first:end])
                ids = np.array([texts[slot][lengths[slot]] for slot in range(first, end)])
                ours, theirs = (decode_logits(one, first, ids, positions).copy() for one in (session, reference))
                compared.add(f"slots {first} to {end - 1} at {positions.tolist()}", theirs, ours)
        return compared.explain()


def equal_slots_give_equal_logits(rig: Rig) -> str:
    model = rig.model()
    with opened(rig, model) as session:
        text = prompt(90, 40, session.info.vocab_size)
        count, worst = session.info.num_slots, 0.0
        for slot in range(count):
            session.prefill(slot, text[:30], 0, 0)
        for position in range(30, 34):
            rows = decode_logits(session, 0, np.full(count, text[position]), np.full(count, position)).copy()
            worst = max(worst, worst_kl(np.broadcast_to(rows[0], rows.shape), rows))
        if not worst <= model.limits.mean:
            raise CheckFailed(f"equal slots differ by a KL of {worst:.3g} nats, the limit is {model.limits.mean:g}")
        return f"{count} slots, worst KL {worst:.2g} nats"
