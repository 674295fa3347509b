"""A program for the Python that has ONNX Runtime GenAI: FOLDER in, jobs as JSON on standard input, answers as JSON out.

A job is ``prompts`` (texts, or lists of token ids) and ``count``; its answer the greedy tokens of each prompt.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def answer(library: Any, model: Any, job: dict[str, Any]) -> list[list[int]]:
    """Up to ``count`` greedy tokens for each of the job's prompts, which run as one batch; rows that end are padded."""
    prompts = [encoded(library, model, prompt) for prompt in job["prompts"]]
    longest = max(map(len, prompts))
    parameters = library.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=longest + job["count"], batch_size=len(prompts))
    generator = library.Generator(model, parameters)
    if len(prompts) == 1:
        generator.append_tokens(prompts[0])
    else:
        generator.append_tokens(library.Tokenizer(model).encode_batch(job["prompts"]))
    while not generator.is_done():
        generator.generate_next_token()
    return [[int(token) for token in generator.get_sequence(row)[longest:]] for row in range(len(prompts))]


def encoded(library: Any, model: Any, prompt: str | list[int]) -> list[int]:
    return [int(i) for i in library.Tokenizer(model).encode(prompt)] if isinstance(prompt, str) else prompt


def main() -> None:
    library = importlib.import_module("onnxruntime_genai")
    library.disable_telemetry_events()
    given = json.load(sys.stdin)
    model = library.Model(sys.argv[1])
    tokenizer = library.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": "Why is the sky blue?"}])
    answers = {
        "tokens": [answer(library, model, job) for job in given["jobs"]],
        "ids": [[int(i) for i in tokenizer.encode(text)] for text in given["texts"]],
        "chat": tokenizer.apply_chat_template(messages, add_generation_prompt=True) if given["chat"] else None,
    }
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
