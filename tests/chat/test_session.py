"""Conversations with the real server, whose model says what the question says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chat.conversation import Conversation
from chat.timing import Timing
from chat.wire import Usage, _PromptDetails
from tests.api.scripted_server import RunningServer
from tests.chat.talking import talk

KEY = "s3cret-of-ours"


def lines_of(text: str) -> list[str]:
    """Lines with the times taken out, which no test may know."""
    return [re.sub(r"\d+\.\d+ (s|tokens/s)", r"# \1", line) for line in text.splitlines()]


def test_answers_history_and_the_line_of_numbers(real_server: RunningServer) -> None:
    told = Conversation("")
    shown = lines_of(talk(real_server.base_url, "hello", " ", "//x", key=KEY, conversation=told))
    assert shown[0] == "hello"
    assert re.fullmatch(
        r"prompt 24(?: \(\d+ cached\))? \+ answer 6 tokens of 256, first after # s(, # tokens/s)?", shown[1]
    )
    assert shown[2] == "/x"
    assert told.messages == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "/x"},
        {"role": "assistant", "content": "/x"},
    ]


def test_the_same_in_one_piece(real_server: RunningServer) -> None:
    shown = lines_of(talk(real_server.base_url, "hello", key=KEY, stream=False))
    assert shown[0] == "hello"
    assert shown[1].startswith("prompt 24 ")
    assert shown[1].endswith("first after # s")  # no speed where nothing streams


def test_the_line_of_numbers() -> None:
    timing = Timing(10.0)
    assert timing.line(None) == ""
    usage = Usage(31, 42, _PromptDetails(20))
    assert timing.line(usage) == "prompt 31 (20 cached) + answer 42 tokens"
    timing.mark(10.25)
    assert timing.line(usage, 512) == "prompt 31 (20 cached) + answer 42 tokens of 512, first after 0.25 s"
    timing.mark(12.25)
    assert timing.line(Usage(31, 42)) == "prompt 31 + answer 42 tokens, first after 0.25 s, 20.5 tokens/s"
    assert timing.line(None) == "first after 0.25 s"


def test_a_cut_answer_is_told(real_server: RunningServer) -> None:
    shown = lines_of(talk(real_server.base_url, "/params max_tokens=3", "hello", key=KEY))
    assert shown[:3] == [
        "max_tokens=3",
        "hel",
        "the answer was cut at its length limit (max_tokens, or the context is full)",
    ]


def test_a_schema_constrains_the_answer(real_server: RunningServer, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    shown = lines_of(talk(real_server.base_url, f"/json {file}", "anything", "/json off", "free", key=KEY))
    assert shown[0] == "answers satisfy " + json.dumps(schema, separators=(",", ":"))
    assert shown[1] == '{"a":1}'
    assert shown[3:5] == ["answers are free; /json FILE or /json {SCHEMA} constrains them", "free"]


def test_a_refusal_is_one_line_and_the_conversation_goes_on(real_server: RunningServer) -> None:
    told = Conversation("")
    lines = ("one", "x" * 300, "/undo", "/params temperature=9", "two", "/params temperature=", "/retry")
    shown = lines_of(talk(real_server.base_url, *lines, key=KEY, conversation=told))
    assert "context" in shown[2]
    assert shown[2].endswith("; /undo or /clear makes room")
    assert shown[3:5] == ["forgotten: one", "temperature=9"]
    assert shown[5].startswith("temperature")
    assert "(HTTP 400)" in shown[5]
    assert shown[7] == "two"
    assert [message["content"] for message in told.messages] == ["two", "two"]


def test_a_key_is_asked_for_once(real_server: RunningServer) -> None:
    keys = [KEY]
    assert lines_of(talk(real_server.base_url, "hi", ask_key=keys.pop))[0] == "hi"
    assert keys == []


def test_a_saved_conversation_goes_on_and_curl_could_send_it(real_server: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = ("/system Be brief.", "/params temperature=0 seed=7", '/json {"const":"yes"}', "first", f"/save {file}")
    talk(real_server.base_url, *lines, key=KEY)
    saved = json.loads(file.read_text())
    assert saved == {
        "model": "test/scripted-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": '"yes"'},
        ],
        "temperature": 0,
        "seed": 7,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"const": "yes"}, "strict": True},
        },
    }
    answer = real_server.post(saved, headers={"authorization": f"Bearer {KEY}"})
    assert answer.json()["choices"][0]["message"]["content"] == '"yes"'

    told = Conversation("")
    talk(real_server.base_url, f"/load {file}", "second", "/retry", key=KEY, conversation=told)
    assert [message["content"] for message in told.messages] == ["first", '"yes"', "second", '"yes"']
    assert (told.system, told.params, told.schema) == ("Be brief.", {"temperature": 0, "seed": 7}, {"const": "yes"})


@pytest.mark.parametrize("last", ["/exit", "/exit now"])
def test_leaving(real_server: RunningServer, last: str) -> None:
    assert talk(real_server.base_url, last, "not read", key=KEY) == ""
