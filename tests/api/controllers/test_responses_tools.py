"""Tools, reasoning and structured text in responses, over a real socket, with OpenAI's client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.api.controllers.test_responses import PATH, comparable, respond, stream
from tests.api.programs import TEMPLATE
from tests.api.refusals import refused
from tests.api.scripted_server import NAMES, RunningServer, running_server

LOOK = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}, "required": ["at"]},
    "strict": False,
}
WAIT = {"type": "function", "name": "wait"}
LOOKS = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
WAITS = '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'

WITHOUT_TOOLS = re.sub(r"{% if message.role == 'tool' %}.*?{% endif %}", "", TEMPLATE)


class City(BaseModel):
    """What a structured answer holds."""

    name: str
    people: int


@pytest.fixture(scope="module")
def tools_server() -> Iterator[RunningServer]:
    """A server whose model reasons, and whose context has room for tools."""
    with running_server(max_model_len=2048, reasoning_parser="think", template=WITHOUT_TOOLS) as running:
        yield running


@pytest.fixture(scope="module")
def client(tools_server: RunningServer) -> Iterator[OpenAI]:
    with tools_server.openai as opened:
        yield opened


def shown(items: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Each item's type and what it says."""
    found: list[tuple[str, ...]] = []
    for item in items:
        match item["type"]:
            case "function_call":
                found.append((item["type"], item["name"], item["arguments"]))
            case "reasoning" if item["summary"]:
                found.append((item["type"], "summary", item["summary"][0]["text"]))
            case _:
                found.append((item["type"], item["content"][0]["text"]))
    return found


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (LOOKS, [("function_call", "look", '{"at": 1}')]),
        (LOOKS + "\n" + WAITS, [("function_call", "look", '{"at": 1}'), ("function_call", "wait", "{}")]),
        ("I look.\n" + LOOKS, [("message", "I look.\n"), ("function_call", "look", '{"at": 1}')]),
        (
            "<think>hm</think>\n\nYes. " + LOOKS,
            [("reasoning", "hm"), ("message", "Yes. "), ("function_call", "look", '{"at": 1}')],
        ),
        ("<think>hm</think>\n\nYes.", [("reasoning", "hm"), ("message", "Yes.")]),
        ("plain <tool_call>", [("message", "plain <tool_call>")]),
    ],
)
def test_calls_and_reasoning_are_items_streamed_and_plain(
    tools_server: RunningServer, program: str, expected: list[tuple[str, ...]]
) -> None:
    plain = respond(tools_server, program, tools=[LOOK, WAIT])
    events = stream(tools_server, program, tools=[LOOK, WAIT])
    assert [tuple(text.strip() for text in item) for item in shown(plain["output"])] == [
        tuple(text.strip() for text in item) for item in expected
    ]
    assert plain["status"] == "completed"
    assert comparable(events[-1]["response"]) == comparable(plain)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    for index, item in enumerate(done):
        deltas = [event["delta"] for event in events if event.get("output_index") == index and "delta" in event]
        assert "".join(deltas) == shown([item])[0][-1]


def test_ids_of_calls_are_their_own(tools_server: RunningServer) -> None:
    calls = respond(tools_server, f"{LOOKS}\n{LOOKS}", tools=[LOOK])["output"]
    assert len({call["call_id"] for call in calls} | {call["id"] for call in calls}) == 4
    assert all(call["call_id"].startswith("call_") and call["id"].startswith("fc_") for call in calls)


def test_a_response_says_what_was_asked_of_its_tools(tools_server: RunningServer) -> None:
    named = {"type": "function", "name": "look"}
    found = respond(tools_server, LOOKS, tools=[LOOK], tool_choice=named, parallel_tool_calls=False)
    assert (found["tools"], found["tool_choice"], found["parallel_tool_calls"]) == ([LOOK], named, False)
    assert [item["name"] for item in found["output"]] == ["look"]


def test_reasoning_is_counted_and_told_as_asked(tools_server: RunningServer) -> None:
    program = "<think>hm</think>\n\nYes."
    found = respond(tools_server, program)
    assert found["usage"]["output_tokens_details"] == {"reasoning_tokens": len("<think>hm</think>")}
    assert found["usage"]["output_tokens"] == len(program) + 1
    summary = respond(tools_server, program, reasoning={"summary": "auto"})
    assert shown(summary["output"]) == [("reasoning", "summary", "hm"), ("message", "Yes.")]
    hidden = respond(tools_server, program, include_reasoning=False)
    assert shown(hidden["output"]) == [("message", "Yes.")]


def test_openais_client_runs_a_tool(client: OpenAI) -> None:
    given: list[Any] = [{"role": "user", "content": LOOKS}]
    tool: Any = LOOK
    with client.responses.stream(model=NAMES[0], input=given, tools=[tool]) as events:
        snapshots = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
        first = events.get_final_response()
    (call,) = first.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == json.loads(snapshots[-1]) == {"at": 1}
    given += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}]
    given.append({"role": "user", "content": "I saw it."})
    assert client.responses.create(model=NAMES[0], input=given, tools=[tool]).output_text == "I saw it."


def test_openais_client_parses(client: OpenAI, tools_server: RunningServer) -> None:
    program = '{"name":"Rome","people":3}'
    parsed = client.responses.parse(model=NAMES[0], input=program, text_format=City)
    assert parsed.output_parsed == City(name="Rome", people=3)
    with client.responses.stream(model=NAMES[0], input=program, text_format=City) as events:
        assert events.get_final_response().output_parsed == City(name="Rome", people=3)
    found = respond(tools_server, program, text={"format": {"type": "json_schema", "name": "City", "schema": {}}})
    assert found["text"]["format"] == {
        "type": "json_schema",
        "schema": {},
        "name": "City",
        "description": None,
        "strict": None,
    }


def test_a_format_is_held_whatever_the_model_would_have_said(server: RunningServer) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": "Rome"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    assert shown(respond(server, "no", text=text)["output"]) == [("message", '{"a":"Rome"}')]
    found = respond(server, "no", text={"format": {"type": "json_object"}}, max_output_tokens=5)
    assert found["output"][0]["content"][0]["text"].startswith("{")


def test_a_schema_that_cannot_be_held_is_blamed_by_the_name_it_was_given(tools_server: RunningServer) -> None:
    text = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "nothing known"}}}
    for more in ({}, {"stream": True}):
        error = refused(tools_server, {"input": "x", "text": text, **more}, path=PATH)
        assert error["param"] == "text.format.schema"
        assert "response_format" not in error["message"]


def test_a_call_cut_off_is_incomplete(client: OpenAI, tools_server: RunningServer) -> None:
    found = respond(tools_server, LOOKS, tools=[LOOK], max_output_tokens=len(LOOKS) - 16)
    assert found["status"] == "incomplete"
    assert found["output"][-1]["status"] == "incomplete"
    with (
        client.responses.stream(model=NAMES[0], input="abcdef", max_output_tokens=2) as events,
        pytest.raises(RuntimeError, match=r"response\.completed"),
    ):
        events.get_final_response()
    with pytest.raises(openai.BadRequestError, match="keeps no items"):
        client.responses.create(model=NAMES[0], input=[{"type": "item_reference", "id": "msg_1"}])
