"""The questions and the prose that come with powertrain, read from the files beside this module. Scores nothing."""

from __future__ import annotations

from importlib import resources

import msgspec

TASK_NAME = "built-in questions and prose, 1st edition"
"""Results are compared within one edition: change it with the files."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question and what may answer it; ``answer`` is the index of the right choice."""

    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def context(self) -> str:
        """What a model reads before a choice, in the form that lm-eval gives ARC's questions."""
        return f"Question: {self.question}\nAnswer:"

    @property
    def continuations(self) -> tuple[str, ...]:
        """Each choice as it follows the context."""
        return tuple(f" {choice}" for choice in self.choices)


def questions() -> tuple[Question, ...]:
    """All questions, in the file's order."""
    lines = _data("questions.jsonl").splitlines()
    return tuple(msgspec.json.decode(line, type=Question) for line in lines)


def prose() -> tuple[str, ...]:
    """The paragraphs of the prose, each to be predicted from its own beginning."""
    return tuple(_data("prose.txt").strip().split("\n\n"))


def _data(name: str) -> str:
    return resources.files("bench.evaluation").joinpath("data", name).read_text(encoding="utf-8")
