"""``/v1/messages`` (Anthropic's) over a real socket: bodies, streams, tools, refusals, failures, keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.api.programs import TEMPLATE
from tests.api.scripted_server import NAMES, RunningServer, running_server

PATH = "/v1/messages"
TOOL = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "integer"}}, "required": ["at"]},
}
LOOKS = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
WITHOUT_TOOLS = re.sub(r"{% if message.role == 'tool' %}.*?{% endif %}", "", TEMPLATE)


@pytest.fixture(scope="module")
def messages_server() -> Iterator[RunningServer]:
    """A server with a key, whose model reasons, and whose context has room for tools."""
    with running_server(
        max_model_len=2048, reasoning_parser="think", template=WITHOUT_TOOLS, api_key=("secret",)
    ) as running:
        running.http.headers["x-api-key"] = "secret"
        yield running


def body_of(program: Any, **fields: Any) -> dict[str, Any]:
    turns = program if isinstance(program, list) else [{"role": "user", "content": program}]
    return {"model": NAMES[0], "max_tokens": 200, "messages": turns, **fields}


def told(server: RunningServer, program: Any, **fields: Any) -> dict[str, Any]:
    """The message of a plain answer."""
    response = server.post(body_of(program, **fields), PATH)
    assert response.status_code == 200, response.text
    return dict(response.json())


def events_of(server: RunningServer, program: Any, **fields: Any) -> list[dict[str, Any]]:
    """A stream's events; checks framing and names."""
    response = server.post(body_of(program, stream=True, **fields), PATH)
    assert response.status_code == 200, response.text
    events = []
    for block in response.content.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = block.split(b"\n")
        events.append(msgspec.json.decode(data.removeprefix(b"data: ")))
        assert name == b"event: " + events[-1]["type"].encode()
    return events


def folded(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream's events; checks that one block follows the other."""
    message: dict[str, Any] = events[0]["message"]
    pieces = ""
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                pieces = ""
            case "content_block_delta":
                assert event["index"] == len(message["content"]) - 1
                _, pieces = event["delta"].pop("type"), pieces + next(iter(event["delta"].values()))
            case "content_block_stop":
                block = message["content"][event["index"]]
                name = {"text": "text", "thinking": "thinking", "tool_use": "input"}[block["type"]]
                block[name] = msgspec.json.decode(pieces) if name == "input" else pieces
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    return message


def comparable(message: dict[str, Any]) -> dict[str, Any]:
    """A message without what two answers to the same request never share."""
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    usage = dict(message["usage"])
    usage["input_tokens"] += usage.pop("cache_read_input_tokens")  # the second finds the first one's prompt
    return {**message, "id": None, "content": blocks, "usage": usage}


def refused(server: RunningServer, status: int = 400, **fields: Any) -> dict[str, Any]:
    """The error of a refused request, which is the same for a stream."""
    response = server.post(body_of("x", **fields), PATH)
    assert response.status_code == status, response.text
    streamed = server.post(body_of("x", **fields, stream=True), PATH)
    assert (streamed.status_code, streamed.json()) == (status, response.json())
    assert (list(response.json()), response.json()["type"]) == (["type", "error"], "error")
    return dict(response.json()["error"])


def test_a_whole_message(messages_server: RunningServer) -> None:
    found = told(messages_server, "ok", system="s")
    assert found.pop("id").startswith("msg_")
    assert found == {
        "type": "message",
        "role": "assistant",
        "model": NAMES[0],
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 32,
            "output_tokens": 3,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        },
    }


def test_the_exact_events_of_a_stream(messages_server: RunningServer) -> None:
    events = events_of(messages_server, "ab")
    start = events[0].pop("message")
    assert (start["content"], start["stop_reason"], start["usage"]["output_tokens"]) == ([], None, 0)
    usage = {"input_tokens": 21, "output_tokens": 3, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
    assert events == [
        {"type": "message_start"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "b"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(
    ("program", "fields", "stop", "kinds"),
    [
        ("👩‍👩‍👧‍👦 a\u2028b", {}, "end_turn", ["text"]),
        ("ab<stop>c", {"stop_sequences": ["<stop>"]}, "stop_sequence", ["text"]),
        ("abcdef", {"max_tokens": 3}, "max_tokens", ["text"]),
        ("#257", {}, "end_turn", []),
        (
            f"<think>hm</think>\n\nYes. {LOOKS}\n{LOOKS}",
            {"tools": [TOOL]},
            "tool_use",
            ["thinking", "text", *2 * ["tool_use"]],
        ),
        (
            LOOKS.replace(": 1", ":1"),
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
            "tool_use",
            ["tool_use"],
        ),
    ],
)
def test_a_stream_makes_the_plain_message(
    messages_server: RunningServer, program: str, fields: dict[str, Any], stop: str, kinds: list[str]
) -> None:
    plain = told(messages_server, program, **fields)
    assert comparable(folded(events_of(messages_server, program, **fields))) == comparable(plain)
    assert plain["stop_reason"] == stop
    assert [block["type"] for block in plain["content"]] == kinds
    assert all(block["input"] == {"at": 1} for block in plain["content"] if block["type"] == "tool_use")
    assert plain["stop_sequence"] == ("<stop>" if stop == "stop_sequence" else None)


def test_a_conversation_with_a_tool_is_the_chat_of_the_same_messages(messages_server: RunningServer) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "seen"}]}
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "so?", "cache_control": {"type": "ephemeral"}}]},
    ]
    found = told(messages_server, turns, tools=[TOOL], system=[{"type": "text", "text": "s"}])
    function = {"name": "look", "description": "Looks.", "parameters": TOOL["input_schema"]}
    call = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "seen", "tool_call_id": "toolu_1"},
        {"role": "user", "content": "so?"},
    ]
    chat = messages_server.post({"messages": messages, "tools": [{"type": "function", "function": function}]}).json()
    assert found["content"] == [{"type": "text", "text": "so?"}]
    assert found["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    counted = messages_server.post({"messages": turns, "tools": [TOOL], "system": "s"}, f"{PATH}/count_tokens")
    assert counted.json() == {"input_tokens": chat["usage"]["prompt_tokens"]}


def test_a_last_answer_is_gone_on_with(messages_server: RunningServer) -> None:
    turns = [{"role": "user", "content": "abcd"}, {"role": "assistant", "content": "ab"}]
    assert told(messages_server, turns)["content"] == [{"type": "text", "text": "cd"}]


def test_a_call_cut_off_has_no_input_in_a_plain_message(messages_server: RunningServer) -> None:
    found = told(messages_server, LOOKS, tools=[TOOL], max_tokens=len(LOOKS) - 16)
    assert found["stop_reason"] == "max_tokens"
    assert found["content"][-1]["input"] == {}


def test_a_format_is_held(messages_server: RunningServer) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"], "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    found = told(messages_server, "<think>h</think>\n\nno", output_config=config)
    assert found["content"][-1] == {"type": "text", "text": '{"a":7}'}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"messages": []}, "messages", "length >= 1"),
        ({"max_tokens": None}, "max_tokens", "is required"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role", "'system' is not allowed"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.type", "'image'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
            "messages.0.content.0.tool_use_id",
            "no tool_use before it",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
            "messages.0.content.0",
            "in the user's message",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "t"}]}]},
            "messages.0.content.0",
            "text and tool_result blocks only",
        ),
        ({"temperature": 3}, "temperature", "a number <= 2"),
        ({"stop": ["x"]}, "stop", "use stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences", "stop_sequences: an empty string"),
        ({"n": 2}, "n", "one answer"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type", "'bash_20250124' is not allowed"),
        (
            {"tools": [{**TOOL, "input_schema": {"type": "array"}}]},
            "tools.0.input_schema",
            "tools.0.input_schema: arguments",
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "no"}},
            "tool_choice.name",
            "tool_choice.name: 'no'",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "only allowed with tools"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "nothing known"}}}},
            "output_config.format.schema",
            "",
        ),
        ({"context_management": {}}, "context_management", "does not shorten"),
        ({"mcp_servers": []}, "mcp_servers", "calls no tools itself"),
    ],
)
def test_faults_are_named_as_given(
    messages_server: RunningServer, fields: dict[str, Any], field: str, words: str
) -> None:
    error = refused(messages_server, **fields)
    assert (error["type"], error["param"]) == ("invalid_request_error", field)
    assert words in error["message"]
    assert "response_format" not in error["message"]


def test_failures_have_this_interfaces_shape(messages_server: RunningServer) -> None:
    assert refused(messages_server, 404, model="other")["type"] == "not_found_error"
    events = events_of(messages_server, "!3:abcdef")
    message = {"type": "api_error", "message": "Internal server error", "param": None}
    assert events[-1] == {"type": "error", "error": message}
    plain = messages_server.post(body_of("!3:abcdef"), PATH)
    assert (plain.status_code, plain.json()["error"]) == (500, message)


def test_a_key_may_come_in_either_header_and_in_one_only(messages_server: RunningServer) -> None:
    body = msgspec.json.encode(body_of("ok"))
    json_type = ("content-type", "application/json")
    right, wrong = ("x-api-key", "secret"), ("x-api-key", "other")
    bearer = ("authorization", "Bearer secret")
    cases = [([right], 200), ([bearer], 200), ([wrong], 401), ([], 401), ([right, bearer], 401), ([right, right], 401)]
    for headers, status in cases:
        request = messages_server.http.build_request("POST", PATH, content=body)
        del request.headers["x-api-key"]
        request.headers = type(request.headers)([*request.headers.items(), json_type, *headers])
        assert messages_server.http.send(request).status_code == status, headers
