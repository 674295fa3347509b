"""Prompts of every length that the graph cuts differently: within a call, a full one, one token more, several."""

from __future__ import annotations

from tests.gpu.checks.rig import Comparison, Rig, both, prompt

_ROWS = 12


def prompts_of_one_and_of_several_chunks(rig: Rig) -> str:
    model = rig.model()
    with both(rig, model) as (session, reference):
        compared, capacity = Comparison(model.limits), session.info.max_model_len
        chunk = min(rig.prefill_tokens, capacity)
        lengths = [2, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk - 5, capacity]
        for seed, length in enumerate(sorted({length for length in lengths if length <= capacity})):
            ids, slot = prompt(seed, length, session.info.vocab_size), seed % session.info.num_slots
            count = min(_ROWS, length)
            ours, theirs = (one.prefill(slot, ids, 0, count).copy() for one in (session, reference))
            compared.add(f"a prompt of {length} tokens", theirs, ours)
        return compared.explain()


def a_prompt_in_two_calls(rig: Rig) -> str:
    """The second begins where the first ended, which is no multiple of anything."""
    model = rig.model()
    with both(rig, model) as (session, reference):
        compared, vocab_size = Comparison(model.limits), session.info.vocab_size
        first = min(rig.prefill_tokens, session.info.max_model_len // 2) - 3
        for slot in range(session.info.num_slots):
            ids = prompt(40 + slot, first + 17, vocab_size)
            for one in (session, reference):
                one.prefill(slot, ids[:first], 0, 0)
            ours, theirs = (one.prefill(slot, ids[first:], first, 17).copy() for one in (session, reference))
            compared.add(f"slot {slot}, 17 tokens after {first}", theirs, ours)
        return compared.explain()
