"""Measures this runtime in process, in the same terms as the peers' probes: PACKAGE THREADS REPETITIONS.

Through the whole engine (plan, run, sample, commit), greedy, one request at a time, prefix cache off.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import TokenEvent
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import load_package
from runtime.request import Request, SamplingParams

from bench.peers.terms import OUTPUT_TOKENS, PROMPT_TOKENS


def measure_request(engine: Engine, vocab_size: int, seed: int) -> tuple[float, float]:
    """(time to first token, time per further token) of one request of random tokens, ms."""
    ids = np.random.default_rng(seed).integers(min(256, vocab_size - 1), vocab_size, PROMPT_TOKENS)
    params = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
    begin_ns = time.perf_counter_ns()
    engine.add(Request(request_id="r", prompt_ids=tuple(ids.tolist()), sampling=params, eos_token_ids=frozenset()))
    moments_ns: list[int] = []
    while engine.has_work:
        events = engine.step().events
        moments_ns += [time.perf_counter_ns()] * sum(isinstance(event, TokenEvent) for event in events)
    return (moments_ns[0] - begin_ns) / 1e6, (moments_ns[-1] - moments_ns[0]) / 1e6 / (len(moments_ns) - 1)


def main() -> None:
    """Measure and print."""
    package, threads, repetitions = load_package(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    options = ModelOptions(num_slots=1, max_model_len=PROMPT_TOKENS + OUTPUT_TOKENS + 16, threads=threads)
    session = session_factory(package, plan_model(package, options), options)()
    engine = Engine(session, EngineConfig(prefix_cache=False))
    rows = [measure_request(engine, session.info.vocab_size, seed) for seed in range(repetitions + 1)][1:]
    session.close()
    sys.stdout.write(json.dumps({"ttft_ms": [row[0] for row in rows], "tpot_ms": [row[1] for row in rows]}) + "\n")


if __name__ == "__main__":
    main()
