"""The committed function calls fit their own tools, and are compared as they should be."""

from __future__ import annotations

import jsonschema_rs
import pytest

from tests.function_calls.score import Call, is_right, read_set


def test_every_expected_call_fits_its_tool() -> None:
    found = read_set()
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in found.tools}
    for case in found.cases:
        for call in case.calls:
            jsonschema_rs.validate(schemas[call.name], call.arguments)
    assert {call.name for case in found.cases for call in case.calls} == set(schemas)
    assert [len(case.calls) for case in found.cases].count(0) == 3


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ([("add", {"numbers": [1, 2.0]}), ("say", {"text": " HELLO", "loud": True})], True),
        ([("say", {"loud": True, "text": "hello"}), ("add", {"numbers": [1, 2]})], True),
        ([("say", {"loud": 1, "text": "hello"}), ("add", {"numbers": [1, 2]})], False),
        ([("say", {"loud": True, "text": "hello"}), ("add", {"numbers": [2, 1]})], False),
        ([("say", {"loud": True, "text": "hello"})], False),
        ([("add", {"numbers": [1, 2]}), ("add", {"numbers": [1, 2]}), ("say", {"loud": True, "text": "hello"})], False),
        ([], False),
    ],
)
def test_calls_are_compared_in_any_order(given: list[tuple[str, dict[str, object]]], *, right: bool) -> None:
    expected = [Call("say", {"text": "Hello", "loud": True}), Call("add", {"numbers": [1, 2]})]
    assert is_right(expected, [Call(*call) for call in given]) is right
    assert is_right([], [Call(*call) for call in given]) is (not given)
