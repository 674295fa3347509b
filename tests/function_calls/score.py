"""How well a model calls functions: ``python -m tests.function_calls.score BASE_URL MODEL`` asks it 21 questions.

A question counts as right when the answer holds exactly the calls of ``cases.json``, in any order, numbers compared as
numbers and text without regard to case; for a question that no tool answers, when there is no call. Greedy, under
``tool_choice: auto``, so it measures the model and its form of calls, not the constraint. Knows no server of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import openai

CASES = Path(__file__).with_name("cases.json")


class Call(msgspec.Struct, frozen=True):
    """A function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


class Case(msgspec.Struct, frozen=True):
    """A question and the calls that answer it; none where no tool does."""

    question: str
    calls: list[Call]


class FunctionCalls(msgspec.Struct, frozen=True):
    """The committed set."""

    tools: list[dict[str, Any]]
    cases: list[Case]


def read_set() -> FunctionCalls:
    """The set in ``cases.json``."""
    return msgspec.json.decode(CASES.read_bytes(), type=FunctionCalls)


def is_right(expected: Sequence[Call], given: Sequence[Call]) -> bool:
    """Whether both are the same calls, in any order."""
    return sorted(map(_spelled, expected)) == sorted(map(_spelled, given))


def _spelled(call: Call) -> str:
    return json.dumps([call.name, _plain(call.arguments)], sort_keys=True)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list():
            return [_plain(item) for item in value]
        case str():
            return value.strip().casefold()
        case bool() | None:
            return value
        case _:
            return float(value)


def asked(client: openai.OpenAI, model: str, tools: list[dict[str, Any]], question: str) -> list[Call]:
    """The calls that a model answers a question with."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "tools": tools}
    answer = client.chat.completions.create(**body, temperature=0, max_tokens=256)  # type: ignore[call-overload]
    calls = answer.choices[0].message.tool_calls or ()
    return [Call(call.function.name, json.loads(call.function.arguments)) for call in calls]


def main() -> int:
    """Ask all questions, and print each and the share of right answers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("model")
    options = parser.parse_args()
    client = openai.OpenAI(base_url=options.base_url, api_key="not-used")
    found = read_set()
    right = 0
    for case in found.cases:
        try:
            given = asked(client, options.model, found.tools, case.question)
        except json.JSONDecodeError:  # an answer that its limit cut
            given = [Call("an unfinished call", {})]
        verdict = is_right(case.calls, given)
        right += verdict
        shown = (
            ", ".join(f"{call.name}({json.dumps(call.arguments, ensure_ascii=False)})" for call in given) or "no call"
        )
        print(f"{'right' if verdict else 'wrong'}  {case.question}  ->  {shown}")
    print(f"{right} of {len(found.cases)} right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
