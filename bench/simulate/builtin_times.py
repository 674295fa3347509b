"""Step times to simulate with where none were measured: the default model at int8 on one core. Values only."""

from __future__ import annotations

from bench.simulate.step_times import StepTimes

BUILTIN = StepTimes(
    name="the default model, 1 thread (built in)",
    batches=(1.0, 4.0, 16.0),
    depths=(0.0, 1024.0),
    decode_s=((0.009, 0.011), (0.014, 0.020), (0.030, 0.055)),
    prefill_s=(0.0016, 0.0020),
    step_overhead_s=0.0002,
)
