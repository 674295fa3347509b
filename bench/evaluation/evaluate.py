"""A scorer and the task -> a result. Owns how answers are chosen and averaged; opens no package and prints nothing.

accuracy            share of questions whose right choice has the largest log-probability (lm-eval's ``acc``)
accuracy_per_byte   the same, each log-probability divided by its choice's UTF-8 bytes; lm-eval's ``acc_norm`` divides
                    by characters, which is the same for English
standard error      sqrt(p (1 - p) / (n - 1)), as lm-eval gives it
perplexity          exp of the mean negative log-probability of a token: comparable between packages of one tokenizer
bits_per_byte       negative log2-probability of the prose / its UTF-8 bytes: comparable between tokenizers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from bench.evaluation.scorer import Scorer
from bench.evaluation.task import TASK_NAME, Question

SCHEMA = "powertrain-eval"
SCHEMA_VERSION = 1


class Evaluation(msgspec.Struct, frozen=True):
    """How one package did. ``right`` and ``right_per_byte`` say for each question whether its answer was found."""

    schema: str
    schema_version: int
    task: str
    model: str
    manifest_sha256: str
    backend: str
    num_questions: int
    accuracy: float
    accuracy_error: float
    accuracy_per_byte: float
    num_prose_tokens: int
    perplexity: float
    bits_per_byte: float
    right: list[bool]
    right_per_byte: list[bool]
    environment: dict[str, str]


class PairedChange(msgspec.Struct, frozen=True):
    """What changed against a baseline, question by question.

    ``p_value`` is that of McNemar's exact test: how likely as lopsided a split of lost and gained is by chance.
    """

    lost: int
    gained: int
    p_value: float
    perplexity_ratio: float


def evaluate(
    scorer: Scorer,
    questions: Sequence[Question],
    prose: Sequence[str],
    *,
    model: str,
    manifest_sha256: str,
    backend: str,
    environment: dict[str, str],
    show: Callable[[str], None],
) -> Evaluation:
    """Score every question's choices and the prose. ``show`` is told what is being scored. Raises BenchError."""
    right, right_per_byte = [], []
    for number, question in enumerate(questions, 1):
        show(f"question {number} of {len(questions)}")
        scores = scorer.continuations(question.context, question.continuations)
        values = np.array([score.log_prob for score in scores])
        sizes = np.array([len(choice.encode()) for choice in question.choices])
        right.append(int(values.argmax()) == question.answer)
        right_per_byte.append(int((values / sizes).argmax()) == question.answer)
    show("prose")
    rolled = [scorer.rolling(paragraph) for paragraph in prose]
    nats = -math.fsum(score.log_prob for score in rolled)
    tokens = sum(score.num_tokens for score in rolled)
    count = len(questions)
    accuracy = sum(right) / count
    return Evaluation(
        schema=SCHEMA,
        schema_version=SCHEMA_VERSION,
        task=TASK_NAME,
        model=model,
        manifest_sha256=manifest_sha256,
        backend=backend,
        num_questions=count,
        accuracy=accuracy,
        accuracy_error=math.sqrt(accuracy * (1 - accuracy) / (count - 1)),
        accuracy_per_byte=sum(right_per_byte) / count,
        num_prose_tokens=tokens,
        perplexity=math.exp(nats / tokens),
        bits_per_byte=nats / math.log(2) / sum(len(paragraph.encode()) for paragraph in prose),
        right=right,
        right_per_byte=right_per_byte,
        environment=environment,
    )


def paired_change(result: Evaluation, baseline: Evaluation) -> PairedChange:
    """``result`` against ``baseline``, both of the same task."""
    lost = sum(old and not new for old, new in zip(baseline.right, result.right, strict=True))
    gained = sum(new and not old for old, new in zip(baseline.right, result.right, strict=True))
    changed = lost + gained
    tail = sum(math.comb(changed, k) for k in range(min(lost, gained) + 1)) / 2**changed
    return PairedChange(lost, gained, min(1.0, 2 * tail), result.perplexity / baseline.perplexity)
