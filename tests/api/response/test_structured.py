"""Contract cases 74 and 76 to 80: what an answer's text must look like, it looks like, in plain answers and streams."""

from __future__ import annotations

import re
import socket
import threading
from concurrent.futures import Future
from typing import Any, Literal

import msgspec
import openai
import pydantic
import pytest

from tests.api.refusals import refused_param
from tests.api.scripted_server import NAMES, RunningServer, chunks_of, content_of, user

HOME = {"type": "object", "properties": {"zip": {"const": 7}}, "required": ["zip"], "additionalProperties": False}
PERSON = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
        "names": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        "home": HOME,
    },
    "required": ["kind", "legs", "names", "home"],
    "additionalProperties": False,
}
WISHED = '{"kind":"dog","legs":4,"names":["Rex","Ü"],"home":{"zip":7}}'
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}


def both(server: RunningServer, program: str, **fields: Any) -> tuple[str, str]:
    """Text and finish reason of a plain answer; the streamed one must be the same."""
    choice = server.chat(program, **fields)["choices"][0]
    chunks = server.stream(program, **fields)
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert content_of(chunks) == choice["message"]["content"]
    assert finishes[-1] == choice["finish_reason"]
    return choice["message"]["content"], choice["finish_reason"]


def test_case_076_json_object_parses(roomy_server: RunningServer) -> None:
    wished = {"response_format": {"type": "json_object"}, "temperature": 0}
    assert both(roomy_server, '{"a":[1,{"b":null}]}', **wished) == ('{"a":[1,{"b":null}]}', "stop")
    text, finish = both(roomy_server, "[1]", **wished, logit_bias={str(ord("}")): 20})
    assert (msgspec.json.decode(text, type=dict), finish) == ({}, "stop")


def test_case_076_a_schema_holds_whatever_the_model_wants(roomy_server: RunningServer) -> None:
    assert both(roomy_server, WISHED, response_format=SCHEMA_FORMAT, temperature=0) == (WISHED, "stop")
    for program in ("No.", '{"kind":"cow","legs":"four"', "~"):
        text, finish = both(roomy_server, program, response_format=SCHEMA_FORMAT, temperature=0)
        assert finish == "stop"
        found = msgspec.json.decode(text)
        assert set(found) == {"kind", "legs", "names", "home"}
        assert found["kind"] in {"cat", "dog"}
        assert found["legs"] in range(10)
        assert found["home"] == {"zip": 7}


def test_case_076_text_is_plain(server: RunningServer) -> None:
    assert both(server, "ab", response_format={"type": "text"}) == ("ab", "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "strin"}}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_json": {"properties": []}}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "string", "pattern": "^a{5}$", "maxLength": 3}}, "guided_json"),
        ({"guided_regex": "[.*"}, "guided_regex"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs.regex"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"grammar": ""}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": {}}}, "structured_outputs.regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
    ],
)
def test_case_077_invalid_demands_are_refused_before_the_stream(
    server: RunningServer, fields: dict[str, Any], param: str
) -> None:
    assert refused_param(server, **fields) == param


@pytest.mark.parametrize("spelling", ["structured_outputs", "guided", "nvext"])
def test_case_078_every_spelling_is_held_alike(roomy_server: RunningServer, spelling: str) -> None:
    cases: tuple[tuple[str, Any, str], ...] = (
        ("choice", ["yes", "no"], "nein"),
        ("regex", "[0-9]{3}", "12ab"),
        ("json", {"enum": ["a", "b"]}, '"bb"'),
        ("grammar", 'start: "ab" | "cd"', "cx"),
    )
    for kind, value, program in cases:
        spelled = {
            "structured_outputs": {"structured_outputs": {kind: value}},
            "guided": {f"guided_{kind}": value},
            "nvext": {"nvext": {f"guided_{kind}": value}},
        }[spelling]
        text, finish = both(roomy_server, program, temperature=0, **spelled)
        wished = {"choice": "no", "regex": "12\\d", "json": '"b"', "grammar": "cd"}[kind]
        assert re.fullmatch(wished, text), (kind, text)
        assert finish == "stop"


def test_structural_tags_hold_within_free_text(roomy_server: RunningServer) -> None:
    tag = {"begin": "<n>", "schema": {"const": 12}, "end": "</n>"}
    wished = {"response_format": {"type": "structural_tag", "structures": [tag], "triggers": ["<n"]}, "temperature": 0}
    assert both(roomy_server, "any <n>99</n> text", **wished)[0].startswith("any <n>12</n>")
    assert both(roomy_server, "none", **wished) == ("none", "stop")
    forged = {"type": "structural_tag", "structures": [{**tag, "end": "a<|im_end|>"}], "triggers": ["<n"]}
    assert refused_param(roomy_server, response_format=forged) == "response_format"
    completion = roomy_server.post({"prompt": "x", "response_format": forged}, "/v1/completions")
    assert (completion.status_code, completion.json()["error"]["param"]) == (400, "response_format")


def test_what_a_demand_holds_is_never_read_as_reasoning(tool_server: RunningServer) -> None:
    fields = {"guided_regex": "[^\\n]{1,20}", "temperature": 0, "max_tokens": 60}
    assert both(tool_server, " <think>a</think>b", **fields) == (" <think>a</think>b", "stop")
    assert both(tool_server, "<think>hm</think>\n\n<think>a", **fields) == ("<think>a", "stop")
    assert both(tool_server, "<think>abc", **fields) == ("", "length")  # reasoning, of which the model sees no end
    assert both(tool_server, "<think>a", **{**fields, "stop": "a"})[1] == "length"


def test_a_grammar_or_tags_that_admit_the_mark_are_held_behind_the_reasoning(tool_server: RunningServer) -> None:
    grammar = {"guided_grammar": "start: /[^!]{1,30}!/", "temperature": 0, "max_tokens": 60}
    assert both(tool_server, "<thin>a!", **grammar) == ("<thin>a!", "stop")
    assert both(tool_server, "<think>a!</think>\n\n<think>b!", **grammar) == ("<think>b!", "stop")
    assert both(tool_server, "<think>a!", **grammar) == ("", "length")
    text, finish = both(tool_server, "<think>" + "a!" * 20, thinking_token_budget=3, **grammar)
    assert re.fullmatch("[^!]{1,30}!", text)
    assert finish == "stop"
    tag = {"begin": "<n>", "content": {"type": "json_schema", "json_schema": {"const": 12}}, "end": "</n>"}
    tags = {"type": "triggered_tags", "triggers": ["<n"], "tags": [tag], "at_least_one": True, "stop_after_first": True}
    wished = {"response_format": {"type": "structural_tag", "format": tags}, "temperature": 0, "max_tokens": 60}
    assert both(tool_server, "<think><n>12</n></think>\n\nso <n>", **wished) == ("so <n>12</n>", "stop")


def test_a_continued_message_s_reasoning_goes_on(tool_server: RunningServer) -> None:
    said = "<think>so "
    messages = [user(f"{said}hm</think>\n\nyes"), {"role": "assistant", "content": said}]
    body = {"messages": messages, "continue_final_message": True, "guided_choice": ["yes", "no"], "temperature": 0}
    message = tool_server.post(body).json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "yes")


def test_completions_hold_it_too(roomy_server: RunningServer) -> None:
    body = {"prompt": "nein\n", "guided_choice": ["yes", "no"], "temperature": 0}
    answer = roomy_server.post(body, "/v1/completions").json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == ("no", "stop")
    refused = roomy_server.post({**body, "guided_choice": [], "stream": True}, "/v1/completions")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "guided_choice")


def test_case_079_a_lover_of_white_space_ends(roomy_server: RunningServer) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}
    text, finish = both(roomy_server, "~", guided_json=schema, temperature=0)
    assert finish == "stop"
    assert not re.search(r"\s", text)
    assert 2 <= len(msgspec.json.decode(text, type=list[int])) <= 3


def test_case_080_cut_off_is_a_valid_prefix(roomy_server: RunningServer) -> None:
    fields = {"response_format": SCHEMA_FORMAT, "temperature": 0}
    for num_tokens in (1, 9, 17):
        text, finish = both(roomy_server, WISHED, max_tokens=num_tokens, **fields)
        assert (text, finish) == (WISHED[:num_tokens], "length")


class Home(pydantic.BaseModel):
    zip: int


class Person(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    legs: int
    names: list[str]
    home: Home


def test_case_080_the_client_s_parse(roomy_server: RunningServer) -> None:
    with roomy_server.openai as client:
        asked: dict[str, Any] = {"model": NAMES[0], "messages": [user(WISHED)], "response_format": Person}
        parsed = client.chat.completions.parse(**asked, temperature=0)
        assert parsed.choices[0].message.parsed == Person(kind="dog", legs=4, names=["Rex", "Ü"], home=Home(zip=7))
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**asked, temperature=0, max_tokens=4)
        with client.chat.completions.stream(**asked, temperature=0) as stream:
            kinds = {event.type for event in stream}
            assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed
        assert "content.done" in kinds


def test_case_074_logprobs_under_a_choice_are_finite(roomy_server: RunningServer) -> None:
    body = {"messages": [user("nein")], "guided_choice": ["yes", "no"], "logprobs": True, "top_logprobs": 20}
    plain = roomy_server.post({**body, "temperature": 0})
    entries = plain.json()["choices"][0]["logprobs"]["content"]
    assert "NaN" not in plain.text
    assert "Infinity" not in plain.text
    assert [entry["token"] for entry in entries] == ["n", "o", "<|im_end|>"]
    assert all(-9999 <= top["logprob"] <= 0 for entry in entries for top in [entry, *entry["top_logprobs"]])
    streamed = chunks_of(roomy_server.post({**body, "temperature": 0, "stream": True}).content)
    found = [chunk["choices"][0]["logprobs"] for chunk in streamed]
    assert [entry for logprobs in found if logprobs for entry in logprobs["content"]] == entries


def test_it_holds_beside_every_sampling_rule(roomy_server: RunningServer) -> None:
    rules: list[dict[str, Any]] = [
        {"n": 3, "temperature": 1.5, "seed": 1},
        {"temperature": 0, "logit_bias": {str(ord("x")): 100}},
        {"temperature": 0, "frequency_penalty": 2, "presence_penalty": 2, "repetition_penalty": 2},
        {"temperature": 0, "bad_words": ["ab"]},
        {"temperature": 2, "top_k": 1},
        {"temperature": 1, "top_p": 0.01, "min_p": 0.9},
        {"temperature": 0, "ignore_eos": True},
        {"temperature": 0, "min_tokens": 3},
        {"temperature": 0, "skip_special_tokens": False, "include_stop_str_in_output": True},
    ]
    for rule in rules:
        choices = roomy_server.chat("xyz", guided_regex="[a-c]{3,6}", max_tokens=40, **rule)["choices"]
        assert len(choices) == rule.get("n", 1)
        for choice in choices:
            assert re.fullmatch("[a-c]{3,6}", choice["message"]["content"]), (rule, choice)
            assert choice["finish_reason"] == "stop", rule


def test_rules_that_leave_nothing_are_the_client_s_fault(roomy_server: RunningServer) -> None:
    contradiction = {"guided_choice": ["ab"], "allowed_token_ids": [ord("x")], "temperature": 0}
    response = roomy_server.post({"messages": [user("x")], **contradiction})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "guided_choice")
    assert roomy_server.metric("request_failure_total") == 0
    streamed = roomy_server.post({"messages": [user("x")], **contradiction, "stream": True})
    assert streamed.status_code == 400


def test_an_emoji_forced_byte_by_byte_is_whole(roomy_server: RunningServer) -> None:
    assert both(roomy_server, "no", guided_choice=["👩‍👧"], temperature=0) == ("👩‍👧", "stop")
    deltas = [chunk["choices"][0]["delta"].get("content") for chunk in roomy_server.stream("no", guided_choice=["é👍"])]
    assert deltas == ["", "é", "👍", ""]


def test_echo_stands_before_the_constrained_text(roomy_server: RunningServer) -> None:
    body = {"messages": [user("no"), {"role": "assistant", "content": "So: "}], "echo": True, "guided_choice": ["no"]}
    answer = roomy_server.post({**body, "continue_final_message": True}).json()["choices"][0]
    assert answer["message"]["content"] == "So: no"


def test_a_stop_string_ends_where_the_rest_satisfies(roomy_server: RunningServer) -> None:
    pattern = {"guided_regex": "a,b,c(,d)?", "temperature": 0}
    assert both(roomy_server, "a,b,c,d", **pattern, stop=",") == ("a,b,c", "stop")
    assert roomy_server.chat("a,b,c,d", **pattern, stop=",")["choices"][0]["stop_reason"] == ","
    assert both(roomy_server, "a,b,c,d", **pattern, stop="b") == ("a,b,c,d", "stop")
    assert both(roomy_server, "a,b,c,d", **pattern, stop=",", include_stop_str_in_output=True) == ("a,b,c,d", "stop")
    assert both(roomy_server, '{"a":"}"}', response_format={"type": "json_object"}, stop=["}", '"']) == (
        '{"a":"}"}',
        "stop",
    )
    ended = roomy_server.chat("abc", guided_regex="ab?c?", temperature=0, stop_token_ids=[ord("b")])["choices"][0]
    assert (ended["message"]["content"], ended["finish_reason"], ended["stop_reason"]) == ("a", "stop", ord("b"))


def test_a_demand_that_turns_out_impossible_ends_the_stream_with_the_client_s_error(
    roomy_server: RunningServer,
) -> None:
    impossible = {"guided_choice": ["ab"], "min_tokens": 5, "temperature": 0}
    plain = roomy_server.post({"messages": [user("ab")], **impossible})
    assert (plain.status_code, plain.json()["error"]["param"]) == (400, "guided_choice")
    streamed = roomy_server.post({"messages": [user("ab")], **impossible, "stream": True})
    chunks = chunks_of(streamed.content)
    assert content_of(chunks[:-1]) == "ab"
    assert chunks[-1]["error"] == plain.json()["error"]
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])


def test_compiling_is_given_up_with_its_client(roomy_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: Future[Any] = Future()
    submitted = threading.Event()

    def submit(_demand: object) -> Future[Any]:
        submitted.set()
        return waiting

    monkeypatch.setattr(roomy_server.service.model.compiler, "submit", submit)
    body = msgspec.json.encode({"messages": [user("x")], "guided_choice": ["a"]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", roomy_server.port)) as connection:
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + body)
        assert submitted.wait(20)
        assert not waiting.cancelled()
    roomy_server.wait_for(waiting.cancelled)
    assert roomy_server.service.engine.num_live == 0
