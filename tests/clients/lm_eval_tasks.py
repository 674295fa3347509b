"""lm-eval on a task of four questions of its own: text at both endpoints, and log-likelihoods at completions."""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from tests.clients.checks import Checks, ensure
from tests.clients.command import run_command, write_tokenizer

QUESTIONS = [
    {"question": "The capital of France is", "choices": [" Paris", " green"], "answer": 0},
    {"question": "Two plus two is", "choices": [" banana", " four"], "answer": 1},
    {"question": "The sky is", "choices": [" blue", " Tuesday"], "answer": 0},
    {"question": "Water boils at 100 degrees", "choices": [" elephant", " Celsius"], "answer": 1},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICES = """
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""
TEXT = """
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["."], max_gen_toks: 16, do_sample: false}
metric_list: [{metric: exact_match}]
"""

checks = Checks()
folder = Path(tempfile.mkdtemp(prefix="lm-eval-"))


def evaluate(model: str, path: str, task: str, *arguments: str) -> dict[str, Any]:
    """The task's results. ``model`` is lm-eval's name of a kind of endpoint."""
    about = f"model={checks.model},base_url={checks.api_url}/{path},num_concurrent=2,max_retries=1"
    output = folder / f"{model}-{task}"
    tokenizer = write_tokenizer(folder / "tokenizer")
    about += f",tokenizer_backend=huggingface,tokenizer={tokenizer}"
    given = {
        "--model": model,
        "--model_args": about,
        "--tasks": task,
        "--include_path": str(folder),
        "--output_path": str(output),
    }
    run_command("lm_eval", ["run", *chain.from_iterable(given.items()), "--log_samples", *arguments])
    (found,) = output.rglob("results_*.json")
    results: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))["results"][task]
    return results


def samples(model: str, task: str) -> list[dict[str, Any]]:
    (found,) = (folder / f"{model}-{task}").rglob("samples_*.jsonl")
    return [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]


questions = folder / "questions.jsonl"
questions.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
for name, kind, rest in (("tiny_text", "generate_until", TEXT), ("tiny_choice", "multiple_choice", CHOICES)):
    text = TASK.format(name=name, kind=kind, questions=questions) + rest
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@checks.check("plain", "chat, generate_until")
def _() -> None:
    evaluate("local-chat-completions", "chat/completions", "tiny_text", "--apply_chat_template")
    ensure(all(sample["resps"][0][0] for sample in samples("local-chat-completions", "tiny_text")), "an empty answer")


@checks.check("plain", "completions, generate_until")
def _() -> None:
    evaluate("local-completions", "completions", "tiny_text")
    ensure(all(sample["resps"][0][0] for sample in samples("local-completions", "tiny_text")), "an empty answer")


@checks.check("log-likelihood", "completions, multiple_choice")
def _() -> None:
    results = evaluate("local-completions", "completions", "tiny_choice")
    told = [float(answer[0][0]) for sample in samples("local-completions", "tiny_choice") for answer in sample["resps"]]
    ensure(all(value < 0 for value in told), f"log-likelihoods {told}, accuracy {results['acc,none']}")
