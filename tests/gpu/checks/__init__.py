"""The acceptance of a GPU backend: one concern per file, each check a function from a rig to one line of what it found.

A check raises CheckFailed, or whatever the backend raised.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.gpu.checks import churn, decode, golden, memory, prefill, replay, restart, sampling, shapes, soak, speed
from tests.gpu.checks.rig import Rig

CHECKS: dict[str, Callable[[Rig], str]] = {
    "golden rows, every precision": golden.every_precision_agrees_with_its_golden_rows,
    "golden rows, one slot": golden.one_slot_is_enough,
    "golden rows, every form of attention": golden.every_form_of_attention_agrees,
    "prefill: a chunk, a full one, several": prefill.prompts_of_one_and_of_several_chunks,
    "prefill: a prompt in two calls": prefill.a_prompt_in_two_calls,
    "decode: ragged, to a slot's last row": decode.ragged_slots_to_the_last_row,
    "decode: every range of slots": decode.every_range_of_slots,
    "decode: equal slots, equal logits": decode.equal_slots_give_equal_logits,
    "replay equals eager": replay.replay_equals_eager,
    "sliding windows": shapes.sliding_windows,
    "heads of 64, 128 and 256": shapes.heads_of_64_128_and_256,
    "penalties, top_p, logprobs": sampling.rules_on_its_logits,
    "tokens chosen on the device": sampling.the_device_chooses_what_the_host_draws,
    "out of memory at load": memory.out_of_memory_at_load_is_a_clear_refusal,
    "restart with a kernel cache": restart.restart_with_a_kernel_cache,
    "slots under HTTP load with aborts": churn.slots_under_load_with_aborts,
    "soak": soak.a_long_mixed_load,
    "speed": speed.decode_reaches_its_share_of_the_bandwidth,
}
