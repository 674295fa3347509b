"""The HTTP client against servers that behave badly, in simulated time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import cast

import pytest

from bench.errors import BenchError
from bench.http.chat_stream import StreamRecorder, error_text
from bench.http.endpoint import ChatOptions, Message, chat_body, endpoint_from_url, http_request
from bench.http.http_client import HttpClient
from bench.http.preflight import choose_model, preflight
from bench.proof.mock_server import MockBehaviour, MockServer
from bench.proof.virtual_time import MemoryNetwork, VirtualTimeLoop

ENDPOINT = endpoint_from_url("http://mock")
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"


class Canned(asyncio.Protocol):
    """Answers every request with the given bytes, then maybe closes."""

    def __init__(self, answer: bytes, *, close: bool = False) -> None:
        self.answer = answer
        self.close = close
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        del data
        assert self.transport is not None
        if self.answer:
            self.transport.write(self.answer)
        if self.close:
            self.transport.close()


def chat(factory: Callable[[], asyncio.Protocol], times: int = 1, timeout_s: float = 5.0) -> list[StreamRecorder]:
    async def main(loop: VirtualTimeLoop) -> list[StreamRecorder]:
        client = HttpClient(ENDPOINT, MemoryNetwork({("mock", 80): factory}).dial_to("mock", 80), loop.now_ns)
        recorders = [StreamRecorder() for _ in range(times)]
        for recorder in recorders:
            await client.chat(b"{}", recorder, timeout_s=timeout_s)
            await asyncio.sleep(0.001)
        await client.close()
        return recorders

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return runner.run(main(loop))


def fault_of(answer: bytes, *, close: bool = False) -> str | None:
    (recorder,) = chat(lambda: Canned(answer, close=close))
    return recorder.fault.kind if recorder.fault else None


def test_stream_until_close_is_whole_without_a_length() -> None:
    assert fault_of(SSE_HEAD + b"\r\n" + CHUNK + END, close=True) is None


def test_stream_with_a_length() -> None:
    body = CHUNK + CHUNK + END
    (recorder,) = chat(lambda: Canned(SSE_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body))
    assert recorder.fault is None
    assert recorder.text == ["x", "x"]
    assert (recorder.finish_reason, recorder.done) == ("stop", True)


@pytest.mark.parametrize(
    ("answer", "close", "kind"),
    [
        (SSE_HEAD + b"\r\n" + CHUNK, True, "cut"),
        (SSE_HEAD + b"content-length: 9999\r\n\r\n" + CHUNK, True, "cut"),
        (b"", True, "cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "protocol"),
        (SSE_HEAD + b"content-length: 16\r\n\r\ndata: not json\n\n", False, "bad_chunk"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", False, "http_503"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}", False, "not_streaming"),
        (SSE_HEAD + b"\r\n" + CHUNK, False, "timeout"),
    ],
)
def test_bad_answers_are_named(answer: bytes, close: bool, kind: str) -> None:
    assert fault_of(answer, close=close) == kind


def test_connection_that_the_server_closed_while_idle_is_retried_once() -> None:
    opened: list[Canned] = []
    body = CHUNK + END

    def factory() -> Canned:
        # The first connection dies after its answer without saying so; a fresh one must be opened quietly.
        server = Canned(SSE_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        opened.append(server)
        return server

    async def main(loop: VirtualTimeLoop) -> StreamRecorder:
        client = HttpClient(ENDPOINT, MemoryNetwork({("mock", 80): factory}).dial_to("mock", 80), loop.now_ns)
        await client.chat(b"{}", StreamRecorder(), timeout_s=5)
        opened[0].answer, opened[0].close = b"", True
        second = StreamRecorder()
        await client.chat(b"{}", second, timeout_s=5)
        await client.close()
        return second

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        second = runner.run(main(loop))
    assert second.fault is None
    assert second.text == ["x"]
    assert len(opened) == 2


def test_connections_are_reused() -> None:
    server = MockServer(MockBehaviour())
    count = 0

    def factory() -> asyncio.Protocol:
        nonlocal count
        count += 1
        return server.protocol()

    options = ChatOptions(model="mock")

    async def main(loop: VirtualTimeLoop) -> None:
        client = HttpClient(ENDPOINT, MemoryNetwork({("mock", 80): factory}).dial_to("mock", 80), loop.now_ns)
        for _ in range(3):
            assert (await preflight(client, options, 5)).fault is None
        assert await choose_model(client, None) == "mock"
        with pytest.raises(BenchError, match="does not serve 'other'; it serves mock"):
            await choose_model(client, "other")
        await client.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        runner.run(main(loop))
    assert count == 1


def test_running_usage_gives_tokens_per_chunk() -> None:
    recorder = StreamRecorder()
    recorder.on_head(200, "text/event-stream", 5)
    for text, tokens in (("a", 1), ("", 2), ("bc", 4)):  # the second token's text was held back
        chunk = b'data: {"choices":[{"delta":{"content":"%s"}}],"usage":{"completion_tokens":%d}}\n\n'
        recorder.on_body(chunk % (text.encode(), tokens), 10 * tokens)
    recorder.on_body(END, 50)
    recorder.on_end()

    chunk_tokens = recorder.chunk_tokens()
    assert recorder.fault is None
    assert recorder.arrivals().tolist() == [10, 40]
    assert chunk_tokens is not None
    assert chunk_tokens.tolist() == [1, 3]


def test_reasoning_is_text_but_no_answer() -> None:
    recorder = StreamRecorder()
    recorder.on_head(200, "text/event-stream", 5)
    recorder.on_body(b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n', 10)
    recorder.on_body(CHUNK, 20)
    assert recorder.arrivals().tolist() == [10, 20]
    assert recorder.first_answer_ns == 20
    assert recorder.text == ["x"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error":{"message":"no such model","code":404}}', "no such model"),
        (b'{"object":"error","message":"flat"}', "flat"),
        (b'{"error":"Unauthorized"}', '"Unauthorized"'),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"<html>bad\n gateway</html>", "<html>bad gateway</html>"),
        (b"", "(empty body)"),
    ],
)
def test_error_bodies_of_all_kinds_become_one_line(body: bytes, text: str) -> None:
    assert error_text(body) == text


def test_urls() -> None:
    assert endpoint_from_url("http://h:8000").url == "http://h:8000/v1"
    assert endpoint_from_url("https://h/api/v1/").url == "https://h:443/api/v1"
    assert endpoint_from_url("http://h/v1/chat/completions").url == "http://h:80/v1"
    for bad in ("h:8000", "ftp://h", "http://", "http://h:99999", "http://u@h", "http://h?x=1", "http://[h"):
        with pytest.raises(BenchError):
            endpoint_from_url(bad)


def test_request_bytes() -> None:
    endpoint = endpoint_from_url("http://[::1]:8000", headers=(("Authorization", "Bearer k"),))
    assert http_request(endpoint, "POST", "/chat/completions", b"{}") == (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: [::1]:8000\r\nUser-Agent: powertrain-bench\r\nAccept: */*\r\n"
        b"Authorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    options = ChatOptions(model="m", ignore_eos=True, continuous_usage=True, extra={"top_p": 0.5})
    assert chat_body(options, (Message("user", "hi"),), 7) == (
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":7,"stream":true,"temperature":0.0,'
        b'"ignore_eos":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"top_p":0.5}'
    )


def test_simulation_refuses_to_wait_for_nothing() -> None:
    async def forever() -> None:
        await asyncio.get_running_loop().create_future()

    with (
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
        pytest.raises(RuntimeError, match="no timer will ever bring"),
    ):
        runner.run(forever())


@pytest.mark.parametrize(
    ("cards", "chosen"),
    [
        ([{"id": "a"}], "a"),
        ([{"id": "a", "root": "a"}, {"id": "alias", "root": "a"}], "a"),
        ([{"id": "a", "root": "a"}, {"id": "b", "root": "b"}], None),
        ([{"id": "a"}, {"id": "b"}], None),
        ([], None),
    ],
)
def test_the_only_model_of_an_endpoint_needs_no_name(cards: list[dict[str, str]], chosen: str | None) -> None:
    body = json.dumps({"data": cards}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def main(loop: VirtualTimeLoop) -> None:
        network = MemoryNetwork({("mock", 80): lambda: Canned(answer)})
        client = HttpClient(ENDPOINT, network.dial_to("mock", 80), loop.now_ns)
        if chosen is None:
            with pytest.raises(BenchError, match="give --model"):
                await choose_model(client, None)
        else:
            assert await choose_model(client, None) == chosen
        await client.close()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        runner.run(main(loop))


def test_closed_port_is_a_clear_error() -> None:
    async def main(loop: VirtualTimeLoop) -> None:
        client = HttpClient(ENDPOINT, MemoryNetwork({}).dial_to("mock", 80), loop.now_ns)
        with pytest.raises(BenchError, match="cannot connect to http://mock:80/v1: Connection refused; is the server"):
            await choose_model(client, None)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualTimeLoop)
        runner.run(main(loop))
