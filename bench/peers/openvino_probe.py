"""Measures OpenVINO GenAI in process. Runs in an environment of its own, as a script:
MODEL THREADS REPETITIONS PROMPT_TOKENS OUTPUT_TOKENS.

Prints one JSON object of lists, one value per repetition after a discarded first: ``ttft_ms`` and ``tpot_ms``, as the
library's own metrics give them. Every prompt differs, because the library reuses the cache of equal prefixes.
"""

from __future__ import annotations

import importlib
import json
import sys

# Words of one token each in the model's vocabulary; the first word of a prompt tells repetitions apart.
WORDS = ("time", "people", "water", "house", "world", "work", "state", "life", "year", "part", "place", "hand")


def main() -> None:
    """Measure and print."""
    model = sys.argv[1]
    threads, repetitions, num_in, num_out = (int(word) for word in sys.argv[2:6])
    library = importlib.import_module("openvino_genai")
    pipeline = library.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    config = library.GenerationConfig()
    config.max_new_tokens = num_out
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    found: dict[str, list[float]] = {"ttft_ms": [], "tpot_ms": []}
    for repetition in range(repetitions + 1):
        word = WORDS[repetition % len(WORDS)]
        metrics = pipeline.generate([" ".join([word] * num_in)], config).perf_metrics
        counts = (metrics.get_num_input_tokens(), metrics.get_num_generated_tokens())
        if counts != (num_in, num_out):
            sys.exit(f"expected {num_in} and {num_out} tokens, got {counts[0]} and {counts[1]}")
        if repetition:
            found["ttft_ms"].append(metrics.get_ttft().mean)
            found["tpot_ms"].append(metrics.get_tpot().mean)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
