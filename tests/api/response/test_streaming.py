"""Contract cases 58 to 72: the bytes of a stream, silence, failure and clients that leave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
from typing import Any

import httpx
import msgspec
import openai
import pytest

from api.response.chat import ChatRenderer
from api.response.generation import Update
from tests.api.scripted_server import NAMES, RunningServer, chunks_of, content_of, running_server, user

TEXTS = {
    "ascii": "The quick brown fox.",
    "cjk": "你好，世界。日本語とか",
    "emoji_families": "👩‍👩‍👧‍👦 and 🏳️‍🌈 and 👍🏽",
    "right_to_left": "שלום עולם مرحبا",
    "code": "def f(x):\n    return {'a': [1, 2]}\n",
    "leading_spaces": "   indented",
    "line_ends": "a\r\nb\rc\nd",
    "quotes": "\"'\\/ \\n \\u0041 </script>",
    "separators": "a\u2028b\u2029c\u0085d\x1ee\x0bf",
    "combining": "e\u0301 n\u0303 ก็",
}


def test_case_058_chunk_sequence(server: RunningServer) -> None:
    response = server.post({"messages": [user("abc")], "stream": True, "model": NAMES[1]})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    chunks = chunks_of(response.content)
    frames = {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks}
    assert len(frames) == 1
    assert frames.pop()[1::2] == ("chat.completion.chunk", NAMES[1])
    choices = [chunk["choices"] for chunk in chunks]
    assert choices == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
        *[[{"index": 0, "delta": {"content": letter}, "logprobs": None, "finish_reason": None}] for letter in "abc"],
        [
            {
                "index": 0,
                "delta": {"content": ""},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
    ]
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("name", TEXTS)
def test_case_059_stream_equals_plain(server: RunningServer, name: str) -> None:
    text = TEXTS[name]
    assert server.chat(text)["choices"][0]["message"]["content"] == text
    assert content_of(server.stream(text)) == text
    with server.openai as client:
        stream = client.chat.completions.create(
            model=NAMES[0], messages=[{"role": "user", "content": text}], stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def test_streams_survive_str_splitlines(server: RunningServer) -> None:
    response = server.post({"messages": [user(TEXTS["separators"])], "stream": True})
    lines = [line for line in response.text.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)


def test_case_060_characters_are_whole(server: RunningServer) -> None:
    chunks = server.stream("a😀b")
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert deltas == ["", "a", "😀", "b", ""]


def test_case_060_invalid_tail(server: RunningServer) -> None:
    chunks = server.stream("#97,240,159,257")
    assert content_of(chunks) == "a\ufffd"
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", "a", "\ufffd"]


def test_case_061_no_part_of_a_stop_string_is_shown(server: RunningServer) -> None:
    shown = ""
    for chunk in server.stream("ab<stop>cd", stop="<stop>"):
        shown += chunk["choices"][0]["delta"]["content"]
        assert "<" not in shown
    assert shown == "ab"


def test_case_061_false_prefix_is_released(server: RunningServer) -> None:
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in server.stream("a<stay", stop="<stop>")]
    assert deltas == ["", "a", "<sta", "y", ""]
    assert content_of(server.stream("a<sto", stop="<stop>")) == "a<sto"


def test_case_062_include_usage(server: RunningServer) -> None:
    without = server.stream("abc")
    chunks = server.stream("abc", stream_options={"include_usage": True})
    assert len(chunks) == len(without) + 1
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == server.chat("abc")["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_case_063_continuous_usage(server: RunningServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = server.stream("a😀b", stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [0, 1, 5, 6, 7, 7]
    assert chunks[-1]["usage"] == server.chat("a😀b")["usage"]
    ignored = server.stream("ab", stream_options={"continuous_usage_stats": True})
    assert all("usage" not in chunk for chunk in ignored)


def test_usage_can_be_forced() -> None:
    with running_server(force_include_usage=True) as server:
        assert server.stream("abc")[-1]["usage"]["completion_tokens"] == 4


def test_case_064_two_choices(server: RunningServer) -> None:
    chunks = server.stream("?", n=2, temperature=1, seed=3, max_tokens=10, stream_options={"include_usage": True})
    openings = [chunk["choices"][0] for chunk in chunks[:2]]
    assert [(choice["index"], choice["delta"]["role"]) for choice in openings] == [(0, "assistant"), (1, "assistant")]
    assert all(len(chunk["choices"]) == 1 for chunk in chunks[:-1])
    finishes = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(finishes) == [0, 1]
    assert chunks[-1]["usage"]["completion_tokens"] == 20


def test_case_064_sdk_stream_helper(server: RunningServer) -> None:
    plain = server.chat("?", n=2, temperature=1, seed=3, max_tokens=10)
    with (
        server.openai as client,
        client.chat.completions.stream(
            model=NAMES[0], messages=[{"role": "user", "content": "?"}], n=2, temperature=1, seed=3, max_tokens=10
        ) as stream,
    ):
        for _ in stream:
            pass
        snapshot = stream.current_completion_snapshot
    texts = [choice.message.content for choice in snapshot.choices]
    assert texts == [choice["message"]["content"] for choice in plain["choices"]]


def test_case_065_role_once(server: RunningServer) -> None:
    with (
        server.openai as client,
        client.chat.completions.stream(model=NAMES[0], messages=[{"role": "user", "content": "hello you"}]) as stream,
    ):
        final = stream.get_final_completion()
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].message.content == "hello you"


def test_case_066_failure_after_tokens(server: RunningServer) -> None:
    response = server.post({"messages": [user("!3:abcdef")], "stream": True})
    assert response.status_code == 200
    events = response.content.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    error = msgspec.json.decode(events[-3].removeprefix(b"data: "))["error"]
    assert error == {
        "object": "error",
        "message": "Internal server error",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
    assert b'finish_reason":"' not in response.content
    with server.openai as client, pytest.raises(openai.APIError, match="Internal server error"):
        for _ in client.chat.completions.create(
            model=NAMES[0], messages=[{"role": "user", "content": "!3:abcdef"}], stream=True
        ):
            pass
    assert server.chat("fine")["choices"][0]["message"]["content"] == "fine"


@pytest.mark.parametrize("stream", [False, True])
def test_case_067_failure_before_the_first_token(server: RunningServer, stream: bool) -> None:
    response = server.post({"messages": [user("!0:abc")], "stream": stream})
    assert response.status_code == 500
    assert "x-should-retry" not in response.headers  # the engine may do better next time
    assert response.json()["error"]["message"] == "Internal server error"


def test_failure_in_a_plain_answer_is_a_500(server: RunningServer) -> None:
    assert server.post({"messages": [user("!3:abcdef")]}).status_code == 500


def _open_stream(server: RunningServer, program: str = "*ab", **fields: Any) -> socket.socket:
    body = msgspec.json.encode({"messages": [user(program)], **fields})
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [pytest.param(True, id="case_068_stream"), pytest.param(False, id="case_069_plain")])
def test_client_leaves(stream: bool) -> None:
    with running_server(gate_open=True) as server:
        warm_up = server.session.count("decode")
        server.gate.open.clear()
        server.gate.reached.clear()
        connection = _open_stream(server, max_tokens=200, stream=stream)
        assert server.gate.reached.wait(10)  # the engine is about to compute for it
        connection.close()
        server.wait_for(lambda: server.metric("request_client_disconnected_total") == 1)
        server.gate.open.set()
        server.wait_idle()
        assert server.session.count("decode") - warm_up <= 1  # 199 without the abort
        assert server.metric("request_finish_total", finished_reason="abort") == 1
        assert server.metric("request_client_disconnected_total") == 1
        assert server.metric("num_requests_running") == 0
        assert server.chat("next")["choices"][0]["message"]["content"] == "next"


def test_case_070_many_clients_that_time_out() -> None:
    with running_server() as server:

        def impatient(_: int) -> None:
            with contextlib.suppress(httpx.TimeoutException):
                server.post({"messages": [user("*ab")], "max_tokens": 200}, timeout=0.5)

        server.gate.open.clear()
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            futures = [pool.submit(impatient, number) for number in range(200)]
            concurrent.futures.wait(futures, timeout=60)
        server.gate.open.set()
        response = server.post({"messages": [user("still here")]}, timeout=5)
        assert response.json()["choices"][0]["message"]["content"] == "still here"
        server.wait_idle()


def test_case_071_keep_alive_comments() -> None:
    with running_server(keep_alive_s=0.05) as server:
        server.gate.open.clear()
        connection = _open_stream(server, "abc", stream=True)
        received = b""
        while received.count(b": keepalive\n\n") < 2:
            received += connection.recv(4096)
        assert b'"role":"assistant"' in received
        server.gate.open.set()
        while b"[DONE]" not in received:
            received += connection.recv(4096)
        connection.close()
        assert b'"content":"a"' in received

        server.gate.open.clear()
        with server.openai as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
            stream = client.chat.completions.create(
                model=NAMES[0], messages=[{"role": "user", "content": "abc"}], stream=True
            )  # returns once the headers came, which the first comment brings
            pool.submit(server.gate.open.set)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "abc"


def test_case_067_failure_after_a_comment_is_an_event() -> None:
    with running_server(keep_alive_s=0.05) as server:
        server.gate.open.clear()
        connection = _open_stream(server, "!0:abc", stream=True)
        received = b""
        while b": keepalive" not in received:
            received += connection.recv(4096)
        server.gate.open.set()
        while b"[DONE]" not in received:
            received += connection.recv(4096)
        connection.close()
    assert received.startswith(b"HTTP/1.1 200")
    assert b'data: {"error":{"object":"error"' in received


def test_case_072_first_bytes_leave_early(server: RunningServer) -> None:
    body = {"messages": [user("*ab")], "stream": True, "max_tokens": 100}
    for _ in range(2):  # the second request reuses the connection
        with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
            events = response.iter_raw()
            first = next(events)
            assert first.startswith(b"data: ")
            assert b"[DONE]" not in first
            rest = b"".join(events)
            assert rest.endswith(b"data: [DONE]\n\n")


def test_http_1_0_clients_get_no_chunked_encoding(server: RunningServer) -> None:
    body = msgspec.json.encode({"messages": [user("abc")], "stream": True})
    head = (
        f"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)
        received = b""
        while block := connection.recv(65536):
            received += block
    headers, _, content = received.partition(b"\r\n\r\n")
    assert b"chunked" not in headers.lower()
    assert content_of(chunks_of(content)) == "abc"


def test_stream_interval_groups_tokens(server: RunningServer) -> None:
    deltas = [chunk["choices"][0]["delta"]["content"] for chunk in server.stream("abcdefgh", stream_interval=3)]
    assert deltas == ["", "a", "bcd", "efg", "h"]


def test_echo(server: RunningServer) -> None:
    messages = [user("xyz"), {"role": "assistant", "content": "So: "}]
    body: dict[str, Any] = {"messages": messages, "echo": True, "max_tokens": 3}
    plain = server.post(body).json()["choices"][0]["message"]["content"]
    assert plain.startswith("So: ")
    assert content_of(chunks_of(server.post({**body, "stream": True}).content)) == plain


def test_return_token_ids(server: RunningServer) -> None:
    plain = server.chat("ab", return_token_ids=True)
    assert plain["choices"][0]["token_ids"] == [97, 98, 257]
    assert len(plain["prompt_token_ids"]) == plain["usage"]["prompt_tokens"]
    chunks = server.stream("ab", return_token_ids=True)
    assert chunks[0]["prompt_token_ids"] == plain["prompt_token_ids"]
    assert all("prompt_token_ids" not in chunk for chunk in chunks[1:])
    assert [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])] == [97, 98, 257]


def test_a_fault_of_ours_in_mid_stream_is_told_and_not_hidden(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_self: ChatRenderer, _update: Update) -> list[bytes]:
        raise ZeroDivisionError("secret")

    before = server.metric("request_failure_total")
    with monkeypatch.context() as patched:
        patched.setattr(ChatRenderer, "chunks", broken)
        response = server.post({"messages": [user("abc")], "stream": True})
    chunks = chunks_of(response.content)
    assert chunks[-1]["error"]["message"] == "Internal server error"
    assert "secret" not in response.text
    server.wait_idle()
    assert server.metric("request_failure_total") == before + 1
    assert "ZeroDivisionError" in caplog.text
