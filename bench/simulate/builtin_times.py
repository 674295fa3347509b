"""Step times to simulate with where none were measured: the default model on two cores. Values only.

At depth 32: docs/numbers.md, measured on an idle machine (decode of 64 tokens from an empty context; a prompt's token
from prompts of 128 and 512). At depth 1,024 a prompt's is on the line through those two; a decode step's is an
estimate: reading 46,080 bytes of cache per token and row at 33 GB/s takes 1.4 us.
"""

from __future__ import annotations

from bench.simulate.step_times import StepTimes

BUILTIN = StepTimes(
    name="the default model, 2 threads (built in)",
    batches=(1.0, 4.0, 16.0),
    depths=(32.0, 1024.0),
    decode_s=((0.00736, 0.00875), (0.00935, 0.01491), (0.01862, 0.04084)),
    prefill_s=(0.000541, 0.000975),
    step_overhead_s=0.0005,
    threads=2,
)
