"""Contract cases 1 to 12: the plain answer, its keys, the roles, the SDK."""

from __future__ import annotations

import re
import time

import pytest

from tests.api.scripted_server import NAMES, RunningServer, token_counts, user


def test_case_001_seed_request(server: RunningServer) -> None:
    body = {
        "model": NAMES[0],
        "messages": [user("hi"), {"role": "assistant", "content": "Hi!"}, user("good day")],
        "top_p": 1,
        "n": 1,
        "max_tokens": 15,
        "stream": False,
        "frequency_penalty": 1.0,
        "stop": ["hello"],
    }
    response = server.post(body)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["id", "object", "created", "model", "choices", "usage"]
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "good day"},
            "logprobs": None,
            "finish_reason": "stop",
            "stop_reason": None,
        }
    ]
    assert list(answer["usage"]) == ["prompt_tokens", "total_tokens", "completion_tokens", "prompt_tokens_details"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "/chat/completions",
            "did you mean /v1/chat/completions? The option --unversioned-paths serves such paths too.",
        ),
        ("/v1/tokenize", "did you mean /tokenize?"),
        ("/models/", "did you mean /v1/models?"),
        ("/v1/embeddings", "This server has no /v1/embeddings: it serves text generation, at /v1/chat/completions"),
        ("/embeddings", "This server has no /v1/embeddings"),
        ("/v1/audio/speech", "This server has no /v1/audio"),
        ("/api/chat", "This server has no /api/chat"),
        ("/v1/load_lora_adapter", "is there when it is started with --allow-runtime-lora-updating and --lora-source"),
        ("/apply-template", "This server has no /apply-template"),
        ("/get_model_info", "This server has no /get_model_info"),
        ("/nope" * 1000, "The requested path does not exist; /docs lists those that do."),
    ],
)
def test_a_path_that_does_not_exist_says_which_does(path: str, words: str, server: RunningServer) -> None:
    response = server.post({"messages": [user("x")]}, path)
    assert response.status_code == 404
    assert words in response.json()["error"]["message"]
    assert len(response.content) < 400


def test_case_002_identity(server: RunningServer) -> None:
    first, second = server.chat("a"), server.chat("a")
    assert re.fullmatch(r"chat-[0-9a-f]{32}", first["id"])
    assert first["id"] != second["id"]
    assert abs(first["created"] - time.time()) <= 5
    assert first["object"] == "chat.completion"


def test_case_003_usage(server: RunningServer) -> None:
    # One byte is one token; four control tokens, "user\n", "abc", two line feeds and "assistant\n" make the prompt.
    usage = token_counts(server.chat("abc"))
    assert usage == {"prompt_tokens": 3 + 5 + 3 + 1 + 10, "completion_tokens": 3 + 1, "total_tokens": 22 + 4}


@pytest.mark.parametrize(
    "leading",
    [
        [{"role": "system", "content": "Be brief."}],
        [{"role": "system", "content": "A"}, {"role": "system", "content": "B"}],
        [],
        [{"role": "system", "content": ""}],
    ],
)
def test_case_004_system_messages(server: RunningServer, leading: list[dict[str, str]]) -> None:
    response = server.post({"messages": [*leading, user("ok")]})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "ok"


def test_case_005_developer_is_system(server: RunningServer) -> None:
    prompts = [
        server.post({"messages": [{"role": role, "content": "x"}, user("y")]}, "/v1/chat/completions/render").json()
        for role in ("developer", "system")
    ]
    assert prompts[0] == prompts[1]
    assert prompts[0]["prompt"].startswith("<|im_start|>system\nx<|im_end|>\n")


def test_case_006_text_parts(server: RunningServer) -> None:
    def prompt(content: object) -> str:
        body = {"messages": [{"role": "user", "content": content}]}
        return str(server.post(body, "/v1/chat/completions/render").json()["prompt"])

    assert prompt([{"type": "text", "text": "x"}]) == prompt("x")
    two_parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt(two_parts) == prompt("a\nb")


def test_case_007_extra_keys(server: RunningServer) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "ok", "extra": 1}], "foo": {"bar": 1}}
    assert server.post({"messages": [message]}).status_code == 200


def test_case_008_history(server: RunningServer) -> None:
    one = server.chat("next")["usage"]["prompt_tokens"]
    history = [user("hi"), {"role": "assistant", "content": "hello"}, user("next")]
    response = server.post({"messages": history}).json()
    assert response["choices"][0]["message"]["content"] == "next"
    assert response["usage"]["prompt_tokens"] > one


def test_case_009_openai_client(server: RunningServer) -> None:
    with server.openai as client:
        answer = client.chat.completions.create(model=NAMES[0], messages=[{"role": "user", "content": "hey"}])
    assert answer.choices[0].message.content == "hey"
    assert answer._request_id is not None


def test_case_010_no_authorization_needed(server: RunningServer) -> None:
    response = server.post({"messages": [user("x")]})
    assert "authorization" not in response.request.headers
    assert response.status_code == 200


def test_case_011_content_type_parameters(server: RunningServer) -> None:
    body = {"messages": [user("x")]}
    for content_type in ("application/json; charset=UTF-8", "application/json;charset=utf-8", "Application/JSON"):
        assert server.post(body, headers={"content-type": content_type}).status_code == 200


def test_case_012_model_names(server: RunningServer) -> None:
    assert server.chat("x")["model"] == NAMES[0]
    assert server.chat("x", model="")["model"] == NAMES[0]
    assert server.chat("x", model=NAMES[1])["model"] == NAMES[1]
