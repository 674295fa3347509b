"""Contract cases 13 to 37: what is refused, with which status, field and words, before anything is generated."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.programs import VOCAB_SIZE
from tests.api.refusals import MESSAGES, accepted, refused, refused_param
from tests.api.scripted_server import RunningServer, chunks_of, running_server, user


@pytest.mark.parametrize("body", [b"{", b'"text"', b"[1]", b"42", b"null", b"", b"\xff{}", b'{"messages":[]} x'])
def test_case_013_not_an_object(server: RunningServer, body: bytes) -> None:
    assert refused(server, body)["param"] is None


def test_byte_order_mark_is_tolerated(server: RunningServer) -> None:
    assert server.post(b'\xef\xbb\xbf{"messages":[{"role":"user","content":"ok"}]}').status_code == 200


def test_last_duplicate_key_counts(server: RunningServer) -> None:
    body = b'{"messages":[{"role":"user","content":"aaaa"}],"max_tokens":0,"max_tokens":2}'
    assert server.post(body).json()["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/jsonl", ""])
def test_case_014_content_type(server: RunningServer, content_type: str) -> None:
    error = refused(server, {"messages": MESSAGES}, headers={"content-type": content_type})
    assert error["message"] == "Unsupported Media Type: Only 'application/json' is allowed"


def test_compressed_bodies_are_refused(server: RunningServer) -> None:
    assert refused(server, {"messages": MESSAGES}, headers={"content-encoding": "gzip"})["param"] is None


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hi", "messages"),
        ([{"content": "x"}], "messages.0.role"),
        ([{"role": "usre", "content": "x"}], "messages.0.role"),
        ([{"role": "user"}], "messages.0.content"),
        ([{"role": "user", "content": None}], "messages.0.content"),
        ([{"role": "user", "content": 5}], "messages.0.content"),
        ([user("x"), 7], "messages.1"),
    ],
)
def test_case_015_messages(server: RunningServer, messages: Any, param: str) -> None:
    body = {} if messages is None else {"messages": messages}
    assert refused(server, body)["param"] == param


def test_case_016_assistant_without_content(server: RunningServer) -> None:
    silent: dict[str, Any] = {"role": "assistant", "content": None}
    assert refused(server, {"messages": [user("a"), silent, user("b")]})["param"] == "messages.1.content"
    silent["tool_calls"] = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    assert server.post({"messages": [user("a"), silent, user("b")]}).status_code == 200


def test_case_017_tool_message_needs_its_call(server: RunningServer) -> None:
    error = refused(server, {"messages": [user("a"), {"role": "tool", "content": "42"}]})
    assert error["param"] == "messages.1.tool_call_id"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_case_018_parts_that_are_no_text(server: RunningServer, kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "y"}}]}
    param = refused(server, {"messages": [message]})["param"]
    assert param.startswith("messages.0.content.1")


def test_case_019_unknown_model(server: RunningServer) -> None:
    error = refused(server, {"messages": MESSAGES, "model": "no/such"}, 404)
    assert error["message"] == "The model `no/such` does not exist."
    assert (error["type"], error["param"]) == ("NotFoundError", "model")
    with server.openai as client, pytest.raises(openai.NotFoundError, match="no/such"):
        client.chat.completions.create(model="no/such", messages=[{"role": "user", "content": "x"}])


def test_unknown_model_comes_before_bad_fields(server: RunningServer) -> None:
    refused(server, {"messages": [], "model": "no/such", "temperature": 9}, 404)


def test_first_bad_field_in_document_order_is_named(server: RunningServer) -> None:
    assert refused(server, {"n": 0, "messages": [], "top_p": 5})["param"] == "n"
    assert refused(server, {"audio": {}, "messages": []})["param"] == "audio"
    assert refused(server, {"messages": [], "audio": {}})["param"] == "messages"


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        pytest.param("temperature", [-0.1, 2.1, "1", True, [1]], [0, 2, 0.5], id="case_020_temperature_range"),
        pytest.param("top_p", [0, 1.01, -1, "x"], [1, 1e-6], id="case_021_top_p_range"),
        pytest.param("n", [0, -1, 129, 1.5, "2"], [1, 2.0], id="case_022_n_range"),
        pytest.param("max_tokens", [0, -5, "10", 1.5], [3, 3.0], id="case_023_max_tokens"),
        pytest.param("presence_penalty", [2.01, -2.01], [2, -2], id="case_024_presence_penalty"),
        pytest.param("frequency_penalty", [2.01, -2.01], [2, -2], id="case_024_frequency_penalty"),
        pytest.param("top_k", [-2, 1.5], [-1, 0, 1], id="case_025_top_k"),
        pytest.param("min_p", [1.1, -0.1], [0, 1], id="case_025_min_p"),
        pytest.param("repetition_penalty", [0, -1], [0.5, 2], id="case_025_repetition_penalty"),
        pytest.param("stop", ["", ["a", ""], 5, ["x"] * 17], [None, [], ["a", "b", "c", "d"]], id="case_027_stop"),
        pytest.param("stop_token_ids", [[-1], [VOCAB_SIZE], "x"], [[1], []], id="case_029_stop_token_ids"),
        pytest.param("seed", [2**63, 1.5], [-(2**63), 2**63 - 1], id="case_030_seed"),
        pytest.param("allowed_token_ids", [[-1], [VOCAB_SIZE]], [[1, 2], []], id="allowed_token_ids"),
        pytest.param("bad_words", ["x", [1]], [["x"], []], id="bad_words"),
        pytest.param("priority", [1, "high"], [0], id="priority"),
        pytest.param("best_of", [2, 0], [1], id="best_of"),
        pytest.param("use_beam_search", [True, 1], [False], id="use_beam_search"),
        pytest.param("length_penalty", [0.5], [1.0], id="length_penalty"),
        pytest.param("stream_interval", [0, -1], [1, 5], id="stream_interval"),
        pytest.param("reasoning_effort", ["extreme", 3], ["none", "high"], id="reasoning_effort"),
    ],
)
def test_field_range(server: RunningServer, name: str, bad: list[Any], good: list[Any]) -> None:
    for value in bad:
        assert (refused_param(server, **{name: value}) or "").startswith(name), value
    for value in good:
        accepted(server, **{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 3}, "temperature: expected a number <= 2.0, got 3"),
        ({"n": 1.5}, "n: expected an integer, got 1.5"),
        ({"stop": [1]}, "stop.0: expected a string, got 1"),
        ({"truncation_side": "up"}, "truncation_side: 'up' is not allowed; allowed are left, right"),
        (
            {"messages": [{"role": "usre"}]},
            "messages.0.role: 'usre' is not allowed; allowed are system, developer, user, assistant, tool, function",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type: 'image_url' is not allowed; allowed are text",
        ),
        ({"stop_token_ids": [1, 600, 601]}, "stop_token_ids: 600, 601 are not in the vocabulary of 512 tokens"),
        ({"messages": [{"role": "user"}]}, "messages.0.content is required"),
    ],
)
def test_messages_say_what_was_given_and_what_is_allowed(
    server: RunningServer, fields: dict[str, Any], message: str
) -> None:
    assert refused(server, {"messages": MESSAGES, **fields})["message"] == message


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_case_020_not_a_number(server: RunningServer, literal: bytes) -> None:
    refused(server, b'{"messages":[{"role":"user","content":"ok"}],"temperature":' + literal + b"}")


def test_case_023_max_completion_tokens_wins(server: RunningServer) -> None:
    answer = server.chat("abcdef", max_tokens=50, max_completion_tokens=2)
    assert answer["usage"]["completion_tokens"] == 2


def test_case_026_min_tokens(server: RunningServer) -> None:
    assert refused_param(server, min_tokens=4, max_tokens=3) == "min_tokens"
    accepted(server, min_tokens=3, max_tokens=3)


def test_case_028_logit_bias(server: RunningServer) -> None:
    error = refused(server, {"messages": MESSAGES, "logit_bias": {"bad1": 1, "bad2": 1}})
    assert error["param"] == "logit_bias"
    assert "bad1, bad2" in error["message"]
    error = refused(server, {"messages": MESSAGES, "logit_bias": {str(VOCAB_SIZE): 1}})
    assert str(VOCAB_SIZE) in error["message"]
    assert f"vocabulary of {VOCAB_SIZE} tokens" in error["message"]
    assert refused_param(server, logit_bias={"1": "a"}) == "logit_bias"
    assert refused_param(server, logit_bias={"1": True}) == "logit_bias"
    accepted(server, logit_bias={"1": 500})


def test_case_031_top_logprobs(server: RunningServer) -> None:
    assert refused_param(server, top_logprobs=5) == "top_logprobs"
    assert refused_param(server, logprobs=True, top_logprobs=21) == "top_logprobs"
    assert refused_param(server, logprobs=True, top_logprobs=-1) == "top_logprobs"
    accepted(server, logprobs=True, top_logprobs=20)


def test_case_032_stream_options(server: RunningServer) -> None:
    for fields in ({"stream": False}, {}):
        assert refused_param(server, stream_options={"include_usage": True}, **fields) == "stream_options"
    accepted(server, stream_options=None)
    accepted(server, stream_options={})
    accepted(server, stream_options={"include_usage": None}, stream=False)


def test_unknown_stream_options_are_listed(server: RunningServer) -> None:
    options = {"include_usage": True, "foo": 1, "b c": 2, "gone": None, "include_obfuscation": True}
    for path in ("/v1/chat/completions", "/v1/completions"):
        body = {"messages": [user("abc")], "prompt": "abc\n", "bar": 3, "stream": True, "stream_options": options}
        body.pop("prompt" if "chat" in path else "messages")
        response = server.post(body, path)
        assert response.headers["x-ignored-fields"] == "bar,stream_options.foo,stream_options.b%20c"
        assert chunks_of(response.content)[-1]["usage"]


def test_case_033_prompt_logprobs(server: RunningServer) -> None:
    assert refused_param(server, prompt_logprobs=1, stream=True) == "prompt_logprobs"


def test_case_034_prompt_either_opens_or_continues(server: RunningServer) -> None:
    param = refused_param(server, add_generation_prompt=True, continue_final_message=True)
    assert param in {"add_generation_prompt", "continue_final_message"}
    assert refused_param(server, continue_final_message=True) == "continue_final_message"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("audio", {}),
        ("modalities", ["audio"]),
        ("modalities", ["text", "audio"]),
        ("functions", []),
        ("function_call", "auto"),
        ("web_search_options", {}),
        ("moderation", {}),
        ("chat_template", "{{ messages }}"),
    ],
)
def test_case_035_refused_by_name(server: RunningServer, name: str, value: Any) -> None:
    assert refused_param(server, **{name: value}) == name


def test_case_035_ignored_silently(server: RunningServer) -> None:
    response = accepted(
        server,
        modalities=["text"],
        user="u",
        store=True,
        metadata={"a": "b"},
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
        verbosity="low",
        parallel_tool_calls=False,
        tool_choice="none",
        response_format={"type": "text"},
    )
    assert "x-ignored-fields" not in response.headers


def test_case_036_unknown_fields(server: RunningServer) -> None:
    assert accepted(server, foo=1, bar={}).headers["x-ignored-fields"] == "foo,bar"
    with running_server(strict_fields=True) as strict:
        error = refused(strict, {"messages": MESSAGES, "foo": 1})
        nested = {"messages": MESSAGES, "stream": True, "stream_options": {"foo": 1}}
        assert refused(strict, nested)["param"] == "stream_options.foo"
    assert error["message"] == "Validation: Unsupported parameter(s): `foo`"
    assert error["param"] == "foo"


@pytest.mark.parametrize("field", ["json_schema", "regex", "ebnf", "grammar"])
def test_demands_in_other_servers_words_are_not_dropped(server: RunningServer, field: str) -> None:
    error = refused(server, {"messages": MESSAGES, field: "a"})
    assert error["param"] == field
    assert "structured_outputs" in error["message"]


def test_nvext_members_stand_for_top_level_fields(server: RunningServer) -> None:
    assert refused_param(server, nvext={"top_k": -2}) == "top_k"
    assert refused_param(server, nvext={"guided_choice": []}) == "guided_choice"
    assert refused_param(server, nvext={"max_thinking_tokens": -3}) == "thinking_token_budget"
    assert refused_param(server, nvext={"top_k": 2}, top_k=3) == "nvext.top_k"
    assert refused_param(server, nvext=[]) == "nvext"
    assert accepted(server, nvext={"top_k": 2, "odd": 1}, top_k=2).headers["x-ignored-fields"] == "nvext.odd"


def test_case_037_null_is_absent(server: RunningServer) -> None:
    from api.request.chat import ChatRequest
    from api.request.known_fields import IGNORED, REFUSED

    names = {*ChatRequest.__struct_fields__, *REFUSED, *IGNORED, "modalities", "nvext"} - {"messages"}
    response = accepted(server, **dict.fromkeys(names))
    assert "x-ignored-fields" not in response.headers
    assert response.json()["choices"] == server.chat("ok")["choices"]
