"""Contract cases 38 to 43: short errors, large bodies, deep bodies, long prompts."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.api.refusals import MESSAGES, PROMPT_LEN, accepted, refused, refused_param
from tests.api.scripted_server import MAX_MODEL_LEN, NAMES, RunningServer, running_server, user


def test_case_038_errors_are_short(server: RunningServer) -> None:
    response = server.post({"messages": [{"role": "nobody", "content": 1}] * 5000})
    assert response.status_code == 400
    assert len(response.content) < 32_000
    error = refused(server, {"messages": MESSAGES, "max_tokens": "9" * 100_000})
    assert len(error["message"]) < 300
    assert "(100000 characters)" in error["message"]
    assert refused(server, {"messages": MESSAGES, "stop": {"a": [1] * 300}})["message"].endswith("<object of 1 keys>")
    refused(server, {"messages": MESSAGES, "model": "m" * 100_000}, 404)


def test_case_039_body_limit() -> None:
    body = b'{"messages":[{"role":"user","content":"ok"}]}'
    with running_server(max_body_bytes=len(body)) as server:
        assert server.post(body).status_code == 200
        error = refused(server, body + b" ", 413)
        assert error["type"] == "RequestEntityTooLargeError"

        def pieces() -> Any:
            yield body
            yield b" "

        response = httpx.post(
            f"{server.base_url}/v1/chat/completions", content=pieces(), headers={"content-type": "application/json"}
        )
        assert response.status_code == 413


def test_case_040_template_refuses(server: RunningServer) -> None:
    forbidden = {"role": "tool", "tool_call_id": "1", "content": "42"}
    error = refused(server, {"messages": [user("x"), forbidden]})
    assert (error["message"], error["param"]) == ("No tools here", "messages")


def test_case_041_context_length(server: RunningServer) -> None:
    room = MAX_MODEL_LEN - PROMPT_LEN
    assert accepted(server, max_tokens=room).json()["usage"]["prompt_tokens"] == PROMPT_LEN
    error = refused(server, {"messages": MESSAGES, "max_tokens": room + 1})
    assert error["param"] == "input_tokens"
    found = re.search(r"maximum context length is (\d+) tokens", error["message"])
    assert found is not None
    assert int(found[1]) == MAX_MODEL_LEN
    assert f"requested {room + 1} output tokens" in error["message"]
    assert f"at least {PROMPT_LEN} input tokens" in error["message"]


def test_case_042_no_max_tokens(server: RunningServer) -> None:
    answer = server.chat("*ab")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == MAX_MODEL_LEN
    for stream in (False, True):
        long = {"messages": [user("x" * MAX_MODEL_LEN)], "stream": stream}
        assert refused(server, long)["param"] == "input_tokens"


def test_case_043_truncate_prompt_tokens(server: RunningServer) -> None:
    def prompt_tokens(**fields: Any) -> int:
        body = {"messages": [user("x" * 400)], "max_tokens": 1, **fields}
        response = server.post(body)
        assert response.status_code == 200, response.text
        return int(response.json()["usage"]["prompt_tokens"])

    assert prompt_tokens(truncate_prompt_tokens=4) == 4
    assert refused_param(server, truncate_prompt_tokens=MAX_MODEL_LEN + 1) == "truncate_prompt_tokens"
    assert refused_param(server, truncate_prompt_tokens=0) == "truncate_prompt_tokens"
    assert refused_param(server, truncate_prompt_tokens=-2) == "truncate_prompt_tokens"
    render = "/v1/chat/completions/render"
    body: dict[str, Any] = {"messages": MESSAGES, "truncate_prompt_tokens": 3}
    whole = server.post({"messages": MESSAGES}, render).json()["prompt_token_ids"]
    assert server.post(body, render).json()["prompt_token_ids"] == whole[-3:]
    assert server.post({**body, "truncation_side": "right"}, render).json()["prompt_token_ids"] == whole[:3]


def test_case_043_minus_one_is_the_whole_context(server: RunningServer) -> None:
    # Nothing is left to generate into: truncation comes before the context check.
    error = refused(server, {"messages": [user("x" * 400)], "truncate_prompt_tokens": -1})
    assert f"at least {MAX_MODEL_LEN} input tokens" in error["message"]


def test_deep_nesting_is_refused(server: RunningServer) -> None:
    for depth in (129, 10_000):
        deep = b"[" * depth + b"]" * depth
        body = b'{"messages":[{"role":"user","content":"ok"}],"chat_template_kwargs":{"a":' + deep + b"}}"
        assert "nested deeper than 128" in refused(server, body)["message"]


def test_integers_of_thousands_of_digits_are_refused(server: RunningServer) -> None:
    refused(server, b'{"messages":[{"role":"user","content":"ok"}],"seed":' + b"9" * 100_000 + b"}")


def test_lone_surrogates_are_refused(server: RunningServer) -> None:
    refused(server, b'{"messages":[{"role":"user","content":"\\ud800"}]}')


def test_served_names_may_hold_anything(server: RunningServer) -> None:
    assert server.chat("x", model=NAMES[0])["model"] == NAMES[0]
    refused(server, {"messages": MESSAGES, "model": ["x"]})
    refused(server, {"messages": MESSAGES, "model": 7})
