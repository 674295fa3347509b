"""``/v1/completions``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.api.programs import IM_END, VOCAB_SIZE
from tests.api.scripted_server import NAMES, RunningServer, chunks_of, running_server, token_counts


def complete(server: RunningServer, prompt: Any, status: int = 200, **fields: Any) -> dict[str, Any]:
    response = server.post({"prompt": prompt, **fields}, "/v1/completions")
    assert response.status_code == status, response.text
    return dict(response.json())


def test_one_prompt(server: RunningServer) -> None:
    answer = complete(server, "abc\n")
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    choice = {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    assert answer["choices"] == [choice]
    assert token_counts(answer) == {"prompt_tokens": 4, "total_tokens": 8, "completion_tokens": 4}


def test_sixteen_tokens_by_default(server: RunningServer) -> None:
    answer = complete(server, "*ab\n")
    assert answer["usage"]["completion_tokens"] == 16
    assert answer["choices"][0]["finish_reason"] == "length"


def test_cached_tokens_are_those_that_prompts_found() -> None:
    """Not what a second choice, or a choice that a stop string ended, reads of the first one's work."""

    def cached(**fields: Any) -> int:
        usage = complete(server, **fields)["usage"]
        server.wait_idle()
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    first, second = "a" * 40 + "\n", "b" * 50 + "\n"
    with running_server() as server:
        assert cached(prompt=first, n=3) == 0
        assert cached(prompt=first, n=3) == 39
        assert cached(prompt=first, stop="aa") == 39
        assert cached(prompt=[first, second]) == 39
        assert cached(prompt=[first, second]) == 39 + 49
        assert cached(prompt=first, echo=True, max_tokens=0) == 39
        chunks = chunks_of(
            server.post(
                {"prompt": first, "stream": True, "stream_options": {"include_usage": True}}, "/v1/completions"
            ).content
        )
        assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 39}


def test_several_prompts_are_grouped(server: RunningServer) -> None:
    answer = complete(server, ["abc\n", "xy\n"], n=2)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "abc"), (1, "abc"), (2, "xy"), (3, "xy"),
    ]  # fmt: skip
    assert token_counts(answer) == {"prompt_tokens": 7, "total_tokens": 7 + 14, "completion_tokens": 14}


def test_token_ids_as_prompts(server: RunningServer) -> None:
    ids = list(b"abc\n")
    assert complete(server, ids)["choices"][0]["text"] == "abc"
    assert [choice["text"] for choice in complete(server, [ids, list(b"x\n")])["choices"]] == ["abc", "x"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [VOCAB_SIZE]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [{}]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 6}, "logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt": "a", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 100, "n": 2}, "n"),
        ({"prompt": "a", "max_tokens": 1000}, "input_tokens"),
    ],
)
def test_refusals(server: RunningServer, fields: dict[str, Any], param: str) -> None:
    response = server.post(fields, "/v1/completions")
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_no_tools_are_no_fault(server: RunningServer) -> None:
    nothing: dict[str, Any] = {"tools": [], "tool_choice": "none"}
    assert complete(server, "abc\n", **nothing)["choices"][0]["text"] == "abc"
    for name, value in (("tools", [{}]), ("tool_choice", "auto")):
        assert complete(server, "abc\n", status=400, **{name: value})["error"]["param"] == name


def test_echo(server: RunningServer) -> None:
    assert complete(server, "abc\n", echo=True)["choices"][0]["text"] == "abc\nabc"


def test_logprobs(server: RunningServer) -> None:
    found = complete(server, "a😀\n", logprobs=2)["choices"][0]["logprobs"]
    assert found["tokens"] == ["a", "\ufffd", "\ufffd", "\ufffd", "\ufffd", "<|im_end|>"]
    assert found["text_offset"] == [0, 1, 1, 1, 1, 2]
    assert len(found["token_logprobs"]) == 6
    assert next(iter(found["top_logprobs"][0])) == "a"


def test_stream_of_several_prompts(server: RunningServer) -> None:
    body = {"prompt": ["abc\n", "xyz\n"], "stream": True, "stream_options": {"include_usage": True}}
    chunks = chunks_of(server.post(body, "/v1/completions").content)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == {0: "abc", 1: "xyz"}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_streamed_offsets_go_on(server: RunningServer) -> None:
    body = {"prompt": "abc\n", "stream": True, "logprobs": 0}
    chunks = chunks_of(server.post(body, "/v1/completions").content)
    offsets = [offset for chunk in chunks for offset in chunk["choices"][0]["logprobs"]["text_offset"]]
    assert offsets == [0, 1, 2, 3]


def test_failure_of_one_prompt_fails_the_request(server: RunningServer) -> None:
    complete(server, ["!1:abc\n", "x\n"], status=500)
    server.wait_idle()


def test_openai_client(server: RunningServer) -> None:
    with server.openai as client:
        answer = client.completions.create(model=NAMES[0], prompt="hello\n")
        assert answer.choices[0].text == "hello"
        stream = client.completions.create(model=NAMES[0], prompt="hello\n", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == "hello"


def test_tokenize_and_back(server: RunningServer) -> None:
    text = "é<|im_end|>"
    answer = server.post({"prompt": text}, "/tokenize").json()
    # Control tokens' names in client text stay text.
    assert answer == {"count": 12, "max_model_len": 256, "tokens": list(text.encode()), "token_strs": None}
    assert server.post({"tokens": [97, IM_END]}, "/detokenize").json() == {"prompt": "a<|im_end|>"}
    assert server.post({"tokens": answer["tokens"]}, "/detokenize").json() == {"prompt": text}


def test_tokenize_a_conversation(server: RunningServer) -> None:
    messages = [{"role": "user", "content": "abc"}]
    answer = server.post({"messages": messages, "return_token_strs": True}, "/tokenize").json()
    assert answer["count"] == server.chat("abc")["usage"]["prompt_tokens"]
    assert answer["token_strs"][0] == "<|im_start|>"
    rendered = server.post({"messages": messages}, "/v1/chat/completions/render").json()
    assert rendered["prompt_token_ids"] == answer["tokens"]
    assert rendered["prompt"] == "<|im_start|>user\nabc<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": 5}),
        ("/detokenize", {"tokens": [VOCAB_SIZE]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "x"}),
        ("/detokenize", {}),
    ],
)
def test_token_endpoints_refuse(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    assert server.post(body, path).status_code == 400
    assert server.post({**body, "model": "no/such"}, path).status_code == 404


def test_control_token_text_in_messages_stays_text(server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "a<|im_end|>b"}]}
    ids = server.post(body, "/v1/chat/completions/render").json()["prompt_token_ids"]
    assert ids.count(IM_END) == 1
    assert msgspec.json.encode(body) is not None
    assert server.chat("a<|im_end|>b")["choices"][0]["message"]["content"] == "a<|im_end|>b"
