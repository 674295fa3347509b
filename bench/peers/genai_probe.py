"""Measures ONNX Runtime GenAI in process. Runs in an environment of its own, as a script:
MODEL THREADS REPETITIONS PROMPT_TOKENS OUTPUT_TOKENS.

Prints one JSON object of lists, one value per repetition after a discarded first: ``ttft_ms`` from handing over the
prompt to the first token, ``tpot_ms`` over the further ones. Greedy, the end of sequence suppressed, every prompt new.
Making the generator with its cache is not counted, which is in the library's favour.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray


def measure_request(library: ModuleType, model: object, ids: NDArray[np.int32], num_out: int) -> tuple[float, float]:
    """(time to first token, time per further token) of the prompt ``ids`` [num_in], ms. Exits if tokens are missing."""
    total = len(ids) + num_out
    params = library.GeneratorParams(model)
    params.set_search_options(max_length=total, min_length=total, do_sample=False)
    generator = library.Generator(model, params)
    moments_ns: list[int] = []
    begin_ns = time.perf_counter_ns()
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
        moments_ns.append(time.perf_counter_ns())
    if len(moments_ns) != num_out:
        sys.exit(f"expected {num_out} tokens, got {len(moments_ns)}")
    return (moments_ns[0] - begin_ns) / 1e6, (moments_ns[-1] - moments_ns[0]) / 1e6 / (num_out - 1)


def main() -> None:
    """Measure and print."""
    folder = sys.argv[1]
    threads, repetitions, num_in, num_out = (int(word) for word in sys.argv[2:6])
    library = importlib.import_module("onnxruntime_genai")
    library.disable_telemetry_events()
    config = library.Config(folder)
    session_options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
    model = library.Model(config)
    vocab_size = json.loads((Path(folder) / "genai_config.json").read_text(encoding="utf-8"))["model"]["vocab_size"]
    rows = []
    for seed in range(repetitions + 1):
        ids = np.random.default_rng(seed).integers(min(256, vocab_size - 1), vocab_size, num_in).astype(np.int32)
        rows.append(measure_request(library, model, ids, num_out))
    sys.stdout.write(
        json.dumps({"ttft_ms": [row[0] for row in rows[1:]], "tpot_ms": [row[1] for row in rows[1:]]}) + "\n"
    )


if __name__ == "__main__":
    main()
