"""An answer's deltas as items and events: their order, numbers and places, and what an end makes of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from api.response.openai_types import TokenLogprob
from api.response.response_events import StreamEvent
from api.response.response_output import ResponseOutput
from runtime.text.answer_delta import AnswerDelta, ArgumentsDelta, CallStarted, ContentDelta, ReasoningDelta

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEMS: TypeAdapter[Any] = TypeAdapter(ResponseOutputItem)
CALLS: list[AnswerDelta] = [
    CallStarted(0, "look"),
    ArgumentsDelta(0, '{"at":'),
    ArgumentsDelta(0, '"it"}'),
    CallStarted(1, "wait"),
    ArgumentsDelta(1, "{}"),
]


def new_output(*, as_summary: bool = False) -> ResponseOutput:
    ids = itertools.count()
    return ResponseOutput(itertools.count().__next__, lambda prefix: f"{prefix}{next(ids)}", as_summary=as_summary)


def told(output: ResponseOutput, deltas: Sequence[AnswerDelta], *, complete: bool = True) -> list[dict[str, Any]]:
    """All events of an answer that brings one delta per update, as JSON; each is one that OpenAI's client knows."""
    events: list[StreamEvent] = []
    for delta in deltas:
        events += output.add((delta,), [])
    events += output.finish(complete=complete)
    shown: list[dict[str, Any]] = [msgspec.to_builtins(event) for event in events]
    for event in shown:
        EVENTS.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in shown] == list(range(len(shown)))
    return shown


def steps(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Each event's kind, the place of its item, and its news if it has any."""
    return [
        (
            event["type"].removeprefix("response."),
            event["output_index"],
            *([event["delta"]] if "delta" in event else []),
        )
        for event in events
    ]


def items(output: ResponseOutput) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = msgspec.to_builtins(output.items)
    for item in shown:
        ITEMS.validate_python(item, strict=True)
    return shown


def test_reasoning_then_text_then_calls() -> None:
    output = new_output()
    events = told(output, [ReasoningDelta("so"), ReasoningDelta(" so"), ContentDelta("Hi"), *CALLS])
    assert steps(events) == [
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0, "so"),
        ("reasoning_text.delta", 0, " so"),
        ("reasoning_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1, "Hi"),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2, '{"at":'),
        ("function_call_arguments.delta", 2, '"it"}'),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3),
        ("function_call_arguments.delta", 3, "{}"),
        ("function_call_arguments.done", 3),
        ("output_item.done", 3),
    ]
    done = {"status": "completed"}
    assert items(output) == [
        {
            "type": "reasoning",
            "id": "rs_0",
            **done,
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "so so"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            **done,
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "id": "fc_2",
            **done,
            "call_id": "call_3",
            "name": "look",
            "arguments": '{"at":"it"}',
        },
        {"type": "function_call", "id": "fc_4", **done, "call_id": "call_5", "name": "wait", "arguments": "{}"},
    ]


def test_what_events_say_of_an_item_is_the_item() -> None:
    output = new_output()
    events = told(output, [ReasoningDelta("a"), ContentDelta("b"), *CALLS])
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == items(output)
    for event in events:
        item = done[event["output_index"]]
        match event["type"]:
            case "response.output_item.added":
                assert event["item"]["status"] == "in_progress"
                assert event["item"]["id"] == item["id"]
                assert event["item"].get("content", []) == []
                assert event["item"].get("arguments", "") == ""
            case "response.content_part.done":
                assert event["part"] == item["content"][event["content_index"]]
            case "response.output_text.done" | "response.reasoning_text.done":
                assert event["text"] == item["content"][0]["text"]
            case "response.function_call_arguments.done":
                assert (event["name"], event["arguments"]) == (item["name"], item["arguments"])
        assert event.get("item_id", item["id"]) == item["id"]


def test_reasoning_is_a_summary_where_one_was_asked_for() -> None:
    output = new_output(as_summary=True)
    events = told(output, [ReasoningDelta("so"), ContentDelta("Hi")])
    assert [event["type"].removeprefix("response.reasoning_") for event in events[:6]] == [
        "response.output_item.added",
        "summary_part.added",
        "summary_text.delta",
        "summary_text.done",
        "summary_part.done",
        "response.output_item.done",
    ]
    assert events[4]["part"] == {"type": "summary_text", "text": "so"}
    assert items(output)[0]["summary"] == [{"type": "summary_text", "text": "so"}]
    assert items(output)[0]["content"] == []


def test_text_after_a_call_is_a_message_of_its_own() -> None:
    output = new_output()
    told(output, [ContentDelta("a"), *CALLS[:2], ContentDelta("b")])
    assert [item["type"] for item in items(output)] == ["message", "function_call", "message"]


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    output = new_output()
    events = told(output, [])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
    ]
    assert items(output)[0]["content"][0]["text"] == ""


@pytest.mark.parametrize("deltas", [[ContentDelta("a")], [ContentDelta("a"), *CALLS[:2]], [ReasoningDelta("a")]])
def test_an_answer_cut_off_ends_in_an_incomplete_item(deltas: list[AnswerDelta]) -> None:
    output = new_output()
    events = told(output, deltas, complete=False)
    *before, last = items(output)
    assert last["status"] == "incomplete"
    assert all(item["status"] == "completed" for item in before)
    assert events[-1]["item"] == last


def test_an_item_that_still_grows_is_shown_as_incomplete() -> None:
    output = new_output()
    output.add((ContentDelta("a"),), [])
    assert [(item["status"], item["content"][0]["text"]) for item in items(output)] == [("incomplete", "a")]


def test_entries_of_tokens_go_with_the_text_and_are_never_lost() -> None:
    entries = [TokenLogprob(str(place), -1.0, [], []) for place in range(4)]
    output = new_output()
    both = output.add((ReasoningDelta("r"), ContentDelta("a"), ContentDelta("b")), entries[:2])
    deltas = [msgspec.to_builtins(event) for event in both if event.type == "response.output_text.delta"]
    assert [len(event["logprobs"]) for event in deltas] == [2, 0]
    later = output.add((), entries[2:3])  # a token that adds no text, as the end token
    assert [(event["delta"], len(event["logprobs"])) for event in map(msgspec.to_builtins, later)] == [("", 1)]
    output.add((CallStarted(0, "f"),), entries[3:])  # a call's tokens are not the message's
    output.finish(complete=True)
    assert [entry["token"] for entry in items(output)[1]["content"][0]["logprobs"]] == ["0", "1", "2"]


def test_arguments_belong_to_the_last_call() -> None:
    output = new_output()
    output.add((ContentDelta("a"),), [])
    with pytest.raises(ValueError, match="not the last one begun"):
        output.add((ArgumentsDelta(0, "{}"),), [])
