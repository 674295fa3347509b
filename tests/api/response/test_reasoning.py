"""Reasoning sections: told from the answer in plain answers and streams, hidden on request, free of constraints."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.scripted_server import NAMES, RunningServer, running_server, user

RENDER = "/v1/chat/completions/render"
THOUGHT = "<think>\nSo 1 < 2.\n</think>\n\n"
TOOL = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def both(server: RunningServer, program: str, **fields: Any) -> tuple[str | None, str | None, str]:
    """Reasoning, content and finish reason of a plain answer; the streamed one must be the same."""
    choice = server.chat(program, temperature=0, **fields)["choices"][0]
    message = choice["message"]
    assert message.get("reasoning") == message.get("reasoning_content")
    reasoning = content = ""
    for chunk in server.stream(program, temperature=0, **fields):
        delta = chunk["choices"][0]["delta"]
        assert delta.get("reasoning") == delta.get("reasoning_content")
        reasoning += delta.get("reasoning_content", "")
        content += delta.get("content", "")
    assert (reasoning, content) == (message.get("reasoning", ""), message["content"] or "")
    return message.get("reasoning"), message["content"], choice["finish_reason"]


def test_reasoning_is_told_from_the_answer(tool_server: RunningServer) -> None:
    assert both(tool_server, f"{THOUGHT}Yes.") == ("So 1 < 2.", "Yes.", "stop")
    assert both(tool_server, "Yes <think>.") == (None, "Yes <think>.", "stop")
    assert both(tool_server, "<think>on and on", max_tokens=12) == ("on an", "", "length")


def test_the_client_finds_it(tool_server: RunningServer) -> None:
    with tool_server.openai as client:
        completion = client.chat.completions.create(model=NAMES[0], messages=[user(f"{THOUGHT}Yes.")])  # type: ignore[list-item]
    assert completion.choices[0].message.to_dict()["reasoning_content"] == "So 1 < 2."


def test_it_goes_before_calls(tool_server: RunningServer) -> None:
    choice = tool_server.chat(THOUGHT + CALL, tools=[TOOL], temperature=0)["choices"][0]
    assert choice["message"]["reasoning"] == "So 1 < 2."
    assert [made["function"]["name"] for made in choice["message"]["tool_calls"]] == ["now"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")


def test_a_prompt_may_open_or_close_the_section(tool_server: RunningServer) -> None:
    opened = {"chat_template_kwargs": {"enable_thinking": True}}
    prompt = tool_server.post({"messages": [user("x")], **opened}, RENDER).json()["prompt"]
    assert prompt.endswith("<think>\n")
    skipped = "x" * len("<think>\n")  # of the program, what the prompt stands for
    assert both(tool_server, f"{skipped}Because.</think>Yes.", **opened) == ("Because.", "Yes.", "stop")
    closed = {"reasoning_effort": "none"}
    skipped = "x" * len("<think>\n\n</think>\n\n")
    assert both(tool_server, f"{skipped}<think>No</think>", **closed) == (None, "<think>No</think>", "stop")


def test_a_constraint_begins_after_it(tool_server: RunningServer) -> None:
    fields = {"guided_choice": ["yes", "no"], "max_tokens": 200}
    assert both(tool_server, f"{THOUGHT}no", **fields) == ("So 1 < 2.", "no", "stop")
    assert both(tool_server, "no", **fields) == (None, "no", "stop")
    opened = {"chat_template_kwargs": {"enable_thinking": True}, **fields}
    assert both(tool_server, "xxxxxxxxfree</think>\n\nno", **opened) == ("free", "no", "stop")
    forced = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
    assert both(tool_server, THOUGHT + CALL, **forced) == ("So 1 < 2.", "", "tool_calls")


def test_it_can_be_left_out_with_its_log_probabilities(tool_server: RunningServer) -> None:
    fields: dict[str, Any] = {"logprobs": True, "include_reasoning": False}
    assert both(tool_server, f"{THOUGHT}Yes.", include_reasoning=False) == (None, "Yes.", "stop")
    answer = tool_server.chat(f"{THOUGHT}Yes.", temperature=0, **fields)
    tokens = "".join(entry["token"] for entry in answer["choices"][0]["logprobs"]["content"])
    assert tokens.endswith("Yes.<|im_end|>")
    assert "So 1 <" not in tokens
    assert answer["usage"]["completion_tokens"] == len(f"{THOUGHT}Yes.") + 1
    chunks = tool_server.stream(f"{THOUGHT}Yes.", temperature=0, **fields)
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert "".join(entry["token"] for some in found if some for entry in some["content"]) == tokens


@pytest.mark.parametrize(
    ("program", "fields", "expected"),
    [
        (f"{THOUGHT}Yes.", {}, len("<think>\nSo 1 < 2.\n</think>")),
        (f"{THOUGHT}Yes.", {"include_reasoning": False, "stream_interval": 5}, len("<think>\nSo 1 < 2.\n</think>")),
        (f"{THOUGHT}no", {"guided_choice": ["yes", "no"]}, len("<think>\nSo 1 < 2.\n</think>")),
        (f"{THOUGHT}{CALL}", {"tools": [TOOL]}, len("<think>\nSo 1 < 2.\n</think>")),
        (" <think>é</think>a", {}, len(" <think>é</think>".encode())),
        ("<think>on and on", {"max_tokens": 12}, 12),
        ("<think>on and on", {}, len("<think>on and on")),  # the end token is none of it
        ("<think>on and on", {"stop": [" on"]}, len("<think>on and")),
        ("<thin", {}, 0),
        ("Yes <think>.</think>", {}, 0),
        ("xxxxxxxxBecause.</think>Yes.", {"chat_template_kwargs": {"enable_thinking": True}}, len("Because.</think>")),
        ("x" * len("<think>\n\n</think>\n\n") + "<think>No</think>", {"reasoning_effort": "none"}, 0),
    ],
)
def test_its_tokens_are_counted_alike_in_streams(
    tool_server: RunningServer, program: str, fields: dict[str, Any], expected: int
) -> None:
    asked = {"temperature": 0, "max_tokens": 200, "n": 2, **fields}
    usage = tool_server.chat(program, **asked)["usage"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 2 * expected}
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = tool_server.stream(program, **asked, stream_options=options)
    counts = ("completion_tokens", "completion_tokens_details")
    assert [chunks[-1]["usage"][name] for name in counts] == [usage[name] for name in counts]
    ends = {chunk["choices"][0]["index"]: chunk["usage"] for chunk in chunks[:-1]}
    assert [ends[index]["completion_tokens_details"]["reasoning_tokens"] for index in range(2)] == [expected] * 2


def test_operators_choose() -> None:
    with running_server(reasoning_parser="deepseek_r1") as server:
        assert both(server, "Because.</think>Yes.") == ("Because.", "Yes.", "stop")
    with running_server(reasoning_parser="none") as server:
        assert both(server, f"{THOUGHT}Yes.") == (None, f"{THOUGHT}Yes.", "stop")
        assert "completion_tokens_details" not in server.chat("Yes.")["usage"]


@pytest.mark.parametrize("field", ["thinking_token_budget", "nvext"])
def test_a_budget_ends_it(tool_server: RunningServer, field: str) -> None:
    budget: dict[str, Any] = {field: 11} if field != "nvext" else {"nvext": {"max_thinking_tokens": 11}}
    assert both(tool_server, f"{THOUGHT}Yes.", **budget)[0] == "So 1 < 2."
    program = "<think>" + "a" * 40 + "</think>Yes."
    reasoning, _, _ = both(tool_server, program, **budget, max_tokens=80)
    assert reasoning == "a" * 11
    held = {**budget, "guided_choice": ["yes", "no"], "max_tokens": 80}
    assert both(tool_server, program, **held)[0] == "a" * 11
