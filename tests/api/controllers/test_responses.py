"""``/v1/responses`` over a real socket: bodies, streams, OpenAI's client, refusals, failures and clients that leave."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import msgspec
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.api.refusals import refused
from tests.api.scripted_server import NAMES, RunningServer

PATH = "/v1/responses"
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ECHO: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def respond(server: RunningServer, given: Any, **fields: Any) -> dict[str, Any]:
    """The body of a successful plain response, which OpenAI's client must know."""
    response = server.post({"input": given, **fields}, PATH)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    Response.model_validate_json(response.content, strict=True)
    return dict(response.json())


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """A stream's events; checks framing, names, numbers, and that OpenAI's client knows each."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = []
    for block in response.content.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = block.split(b"\n")
        event = msgspec.json.decode(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        EVENTS.validate_python(event)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def stream(server: RunningServer, given: Any, **fields: Any) -> list[dict[str, Any]]:
    return events_of(server.post({"input": given, "stream": True, **fields}, PATH))


def comparable(value: Any) -> Any:
    """A response without what two answers to the same request never share."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        own = ("id", "item_id", "call_id", "created_at", "completed_at", "sequence_number")
        return {name: comparable(item) for name, item in value.items() if name not in own}
    return value


def text_item(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "status": status, "role": "assistant", "content": [part]}


def test_a_whole_response(server: RunningServer) -> None:
    found = respond(server, "ok")
    assert found["id"].startswith("resp_")
    assert found["output"][0]["id"].startswith("msg_")
    assert found["completed_at"] - found["created_at"] in {0, 1}
    assert comparable(found) == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": NAMES[0],
        "output": [text_item("ok")],
        "usage": {
            "input_tokens": 21,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 24,
        },
        **ECHO,
    }


def test_the_exact_events_of_a_stream(server: RunningServer) -> None:
    events = stream(server, "ab", model=NAMES[1])
    response_id, item_id = events[0]["response"]["id"], events[2]["item"]["id"]
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": item_id, **text_item("ab")}
    begun = events[0]["response"]
    assert comparable(begun) == {
        "object": "response",
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": NAMES[1],
        "output": [],
        "usage": None,
        **ECHO,
    }
    expected = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}),
        ("content_part.added", {**place, "part": empty}),
        ("output_text.delta", {**place, "delta": "a", "logprobs": []}),
        ("output_text.delta", {**place, "delta": "b", "logprobs": []}),
        ("output_text.done", {**place, "text": "ab", "logprobs": []}),
        ("content_part.done", {**place, "part": item["content"][0]}),
        ("output_item.done", {"output_index": 0, "item": item}),
        ("completed", {"response": events[-1]["response"]}),
    ]
    assert events == [
        {"type": f"response.{kind}", "sequence_number": number, **news} for number, (kind, news) in enumerate(expected)
    ]
    assert events[-1]["response"]["id"] == response_id
    assert events[-1]["response"]["output"] == [item]


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ("👩‍👩‍👧‍👦 a\u2028b\r\n שלום", {}),
        ("#97,240,159,257", {}),
        ("#257", {}),
        ("ab<stop>c", {"stop": "<stop>"}),
        ("a<sto", {"stop": "<stop>"}),
        ("abcdef", {"max_output_tokens": 3}),
        ("a😀b", {"top_logprobs": 2}),
        ("ab<st", {"stop": "<stop>", "include": ["message.output_text.logprobs"]}),
        ("?", {"seed": 3, "max_output_tokens": 9, "temperature": 0.7, "stream_interval": 4}),
    ],
)
def test_the_last_event_is_the_plain_response(server: RunningServer, given: str, fields: dict[str, Any]) -> None:
    plain, events = respond(server, given, **fields), stream(server, given, **fields)
    assert comparable(events[-1]["response"]) == comparable(plain)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    (part,) = plain["output"][0]["content"]
    assert "".join(event["delta"] for event in deltas) == part["text"]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"]


def test_log_probabilities_are_those_of_chat(server: RunningServer) -> None:
    chat = server.chat("a😀", logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert respond(server, "a😀", top_logprobs=2)["output"][0]["content"][0]["logprobs"] == chat


def test_an_answer_cut_off_is_incomplete(server: RunningServer) -> None:
    found = respond(server, "abcdef", max_output_tokens=3)
    assert (found["status"], found["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (found["completed_at"], found["max_output_tokens"]) == (None, 3)
    assert comparable(found["output"]) == [text_item("abc", "incomplete")]
    assert stream(server, "abcdef", max_output_tokens=3)[-1]["type"] == "response.incomplete"


def test_a_conversation_is_the_chat_of_the_same_messages(server: RunningServer) -> None:
    chat = [("system", "s"), ("user", "u1"), ("assistant", "a1"), ("user", "u2")]
    messages = [{"role": role, "content": content} for role, content in chat]
    usage = server.post({"messages": messages}).json()["usage"]
    items = [{"role": role, "content": [{"type": "input_text", "text": content}]} for role, content in chat[1:]]
    found = respond(server, items, instructions="s")
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (usage["prompt_tokens"], 3)
    assert (found["output"][0]["content"][0]["text"], found["instructions"]) == ("u2", "s")


def test_a_response_repeats_its_request(server: RunningServer) -> None:
    given = {
        "instructions": "s",
        "max_output_tokens": 5,
        "max_tool_calls": 2,
        "metadata": {"k": "v"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "p",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "temperature": 0.0,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "none",
        "top_logprobs": 1,
        "top_p": 0.5,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.25,
        "user": "u",
    }
    found = respond(server, "ok", **given, store=True, background=False, truncation="disabled")
    assert {name: found[name] for name in ECHO} == ECHO | given


def test_openais_client(server: RunningServer) -> None:
    with server.openai as client:
        plain = client.responses.create(model=NAMES[0], input="hi there", instructions="be brief")
        assert (plain.output_text, plain.status, plain._request_id is not None) == ("hi there", "completed", True)
        with client.responses.stream(model=NAMES[0], input="hi there") as events:
            snapshots = [event.snapshot for event in events if event.type == "response.output_text.delta"]
            final = events.get_final_response()
        assert snapshots[-1] == final.output_text == "hi there"
        given: list[Any] = [*plain.output, {"role": "user", "content": "more"}]
        again = client.responses.create(model=NAMES[0], input=given, store=False)
        assert again.output_text == "more"
        raw = list(client.responses.create(model=NAMES[0], input="abc", stream=True, max_output_tokens=2))
        assert raw[-1].type == "response.incomplete"
        with pytest.raises(openai.BadRequestError, match="send the whole conversation") as caught:
            client.responses.create(model=NAMES[0], input="x", previous_response_id="resp_1")
        assert caught.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve("resp_1")


def test_refusals_come_before_the_status_line(server: RunningServer) -> None:
    bodies: list[dict[str, Any]] = [{"input": []}, {"input": "x", "model": "other"}, {"input": "x" * 300}]
    for fields in bodies:
        plain = server.post(fields, PATH)
        streamed = server.post({**fields, "stream": True}, PATH)
        assert 400 <= plain.status_code < 500
        assert (streamed.status_code, streamed.json()) == (plain.status_code, plain.json())
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}
    output = {"type": "function_call_output", "call_id": "c", "output": "x"}
    error = refused(server, {"input": [call, output]}, path=PATH)  # by the template
    assert (error["param"], error["message"]) == ("input", "No tools here")
    assert server.post({"input": "x", "foo": 1}, PATH).headers["x-ignored-fields"] == "foo"
    refused(server, b'{"input": "x"', path=PATH)
    refused(server, {"input": "x", "text": {"format": {"type": "json_schema", "schema": _nested(200)}}}, path=PATH)
    refused(server, b'{"input": "' + b"x" * server.service.reception.limits.max_bytes + b'"}', status=413, path=PATH)
    refused(server, {"input": [{"role": "user", "content": [{}] * 20_000}]}, path=PATH)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def test_a_failure_is_the_last_event(server: RunningServer) -> None:
    events = stream(server, "!3:abcdef")
    failed = events[-1]["response"]
    assert events[-1]["type"] == "response.failed"
    assert (failed["status"], failed["usage"]) == ("failed", None)
    assert failed["error"] == {"code": "server_error", "message": "Internal server error"}
    assert comparable(failed["output"]) == [text_item("abc", "incomplete")]
    assert server.post({"input": "!3:abcdef"}, PATH).status_code == 500
    assert server.post({"input": "!0:abc", "stream": True}, PATH).status_code == 500


def test_a_client_that_leaves_frees_its_slot(server: RunningServer) -> None:
    server.wait_idle()
    gone = server.metric("request_client_disconnected_total")
    body = msgspec.json.encode({"input": "*ab", "max_output_tokens": 200, "stream": True})
    lines = ["POST /v1/responses HTTP/1.1", "host: localhost", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    server.gate.reached.clear()
    server.gate.open.clear()
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            assert server.gate.reached.wait(10)  # the engine is about to compute for it
        server.wait_for(lambda: server.metric("request_client_disconnected_total") == gone + 1)
    finally:
        server.gate.open.set()
    server.wait_idle()
    assert server.metric("num_requests_running") == 0
