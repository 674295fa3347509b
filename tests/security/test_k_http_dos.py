"""Class K, denial of service through bodies: nobody else waits for what one request costs.

Repeats the causes of Triton's CVE-2025-23310, CVE-2025-23311, CVE-2025-33201 and CVE-2025-33202 (sizes that a request
chooses and nothing bounds), of vLLM's CVE-2026-9540 (one request that stops the whole HTTP layer) and CVE-2026-34756
(unbounded numbers of things to make), and of the nesting in xgrammar's CVE-2026-25048.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.error_answer import answer_from
from api.request.byte_budget import SMALL_BYTES
from tests.api.refusals import MESSAGES, refused
from tests.api.scripted_server import RunningServer, running_server, user
from tests.security.loop_probe import LoopProbe
from tests.security.nasty_bodies import CHAT, COMPLETIONS, nasty_bodies

LARGEST_GAP_S = 0.25  # the aim is 0.05 on an idle machine: python -m tests.security.measure_loop


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


def test_no_body_holds_the_event_loop(server: RunningServer) -> None:
    assert server.server._loop is not None
    probe = LoopProbe(server.server._loop)
    gaps: dict[str, float] = {}
    for nasty in nasty_bodies(server.service.reception.limits.max_bytes):
        for _ in range(2):  # the machine may stop everybody once, the request does so every time
            probe.take()
            response = server.post(nasty.body, nasty.path)
            assert response.status_code < 500, (nasty.name, response.text)
            gaps[nasty.name] = min(probe.take(), gaps.get(nasty.name, 60.0))
            if gaps[nasty.name] < LARGEST_GAP_S:
                break
    probe.stop()
    worst = max(gaps, key=gaps.__getitem__)
    print(f"largest gap {gaps[worst] * 1e3:.1f} ms, by {worst}, of {len(gaps)} bodies")
    assert len(gaps) >= 30
    assert gaps[worst] < LARGEST_GAP_S, f"{worst}: {gaps[worst]:.3f} s"
    assert server.service.reception.budget.held_bytes == 0


def test_large_texts_are_worked_on_off_the_loop(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, loop = server.service.model.tokenizer, server.server._loop
    assert loop is not None
    loop_threads: list[int] = []
    loop.call_soon_threadsafe(lambda: loop_threads.append(threading.get_ident()))
    threads: list[int] = []

    def watched(name: str) -> None:
        original = getattr(tokenizer, name)

        def call(*args: Any, **options: Any) -> Any:
            threads.append(threading.get_ident())
            return original(*args, **options)

        monkeypatch.setattr(tokenizer, name, call)

    for name in ("encode", "encode_plain", "encode_spans", "decode", "token_name"):
        watched(name)
    cut: dict[str, Any] = {"truncate_prompt_tokens": 4, "max_tokens": 1}
    for fields, path in (
        ({"messages": [user("x" * 5000)], **cut}, CHAT),
        ({"messages": [user("x" * 5000)], **cut}, CHAT + "/render"),
        ({"prompt": "x" * 5000, "echo": True, **cut}, COMPLETIONS),
        ({"prompt": "x", "bad_words": ["x" * 100] * 60, "max_tokens": 1}, COMPLETIONS),
        ({"prompt": "x" * 5000, "return_token_strs": True}, "/tokenize"),
        ({"messages": [user("x" * 5000)]}, "/tokenize"),
        ({"tokens": [65] * 5000}, "/detokenize"),
    ):
        threads.clear()
        assert server.post(fields, path).status_code == 200
        assert threads, path
        assert not {*threads} & {*loop_threads}, path


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"messages": MESSAGES * 4097}, "messages: expected a list of length <= 4096, got <list of 4097 items>"),
        ({f"k{number}": 1 for number in range(256)}, "at most 256 fields are allowed, got 257"),
        ({"nvext": {f"k{number}": 1 for number in range(257)}}, "nvext: at most 256 fields are allowed, got 257"),
        ({"x": [0] * 33_300}, "at most 33280 values are allowed"),
        ({"x": [[]] * 16_400}, "at most 16384 objects and lists are allowed, got 16404"),
        ({"bad_words": ["x" * 257]}, "bad_words.0: expected a string of length <= 256"),
        ({"bad_words": ["x"] * 1025}, "bad_words: expected a list of length <= 1024, got <list of 1025 items>"),
        ({"stop": "x" * 4097}, "stop: expected a string of length <= 4096"),
        ({"stop": ["x" * 4097]}, "stop.0: expected a string of length <= 4096"),
        (
            {"logit_bias": {str(number): 1 for number in range(4097)}},
            "logit_bias: expected an object of length <= 4096",
        ),
        ({"stop_token_ids": [1] * 4097}, "stop_token_ids: expected a list of length <= 4096"),
    ],
)
def test_every_refusal_names_its_limit(server: RunningServer, fields: dict[str, Any], limit: str) -> None:
    assert limit in refused(server, {"messages": MESSAGES, **fields})["message"]


def test_text_is_not_taken_for_structure(server: RunningServer) -> None:
    text = '[{"\\",' * 17_000  # in one string: 34,000 brackets and braces, and quotes after backslashes
    error = refused(server, {"messages": [user(text)]})
    assert error["param"] == "input_tokens"


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> list[int]:
        raise AssertionError("it was tokenized")

    tokenizer = server.service.model.tokenizer
    for name in ("encode", "encode_plain", "encode_spans"):
        monkeypatch.setattr(tokenizer, name, never)
    for fields, path in (
        ({"messages": [user("9" * 100_000)]}, CHAT),
        ({"messages": [user("9" * 100_000)]}, CHAT + "/render"),
        ({"prompt": "9" * 100_000}, COMPLETIONS),
        ({"prompt": ["9" * 100_000]}, COMPLETIONS),
    ):
        error = refused(server, fields, path=path)
        assert "maximum context length is 256 tokens" in error["message"]
        assert "at least 100000 input tokens" in error["message"]  # no token holds two digits
        assert error["param"] == "input_tokens"


def test_arguments_of_tool_calls_are_bounded(server: RunningServer) -> None:
    def call(arguments: str) -> dict[str, Any]:
        calls = [{"function": {"name": "f", "arguments": arguments}}]
        return {"messages": [{"role": "assistant", "tool_calls": calls}, user("ok")], "max_tokens": 1}

    for depth in (129, 500, 5000):
        error = refused(server, call("[" * depth + "]" * depth))
        assert error["message"] == "messages.0.tool_calls.0.function.arguments: nested deeper than 128 levels"
    assert server.post(call('{"a":' * 128 + "1" + "}" * 128)).status_code == 200
    wide = refused(server, call("[" + "[]," * 20_000 + "1]"))
    assert "at most 16384 values are allowed" in wide["message"]
    old = {"role": "assistant", "function_call": {"name": "f", "arguments": "[" * 500}}
    assert server.post({"messages": [old, user("ok")], "max_tokens": 1}).status_code == 200  # not JSON: a mere text


def test_a_500_of_ours_tells_the_client_not_to_try_again() -> None:
    answer = answer_from(RecursionError("maximum recursion depth exceeded"))
    assert (answer.status, answer.headers) == (500, {"x-should-retry": "false"})


def test_bodies_in_flight_have_a_budget() -> None:
    limit = 4 * SMALL_BYTES
    with (
        running_server(max_body_bytes=3 * SMALL_BYTES, max_in_flight_bytes=limit) as server,
        contextlib.ExitStack() as stack,
    ):
        budget = server.service.reception.budget
        body = b'{"messages":[' + b" " * (SMALL_BYTES * 5 // 4)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for _ in range(2):  # bodies that are all but complete
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            connection.sendall(f"{head}content-length: {len(body) + 1}\r\n\r\n".encode() + body)
        server.wait_for(lambda: budget.held_bytes == 2 * len(body))
        response = server.post({"messages": [user("x" * (SMALL_BYTES + 100))]})
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert f"the limit is {limit}" in response.json()["error"]["message"]
        for path in ("/tokenize", "/detokenize", CHAT + "/render"):
            assert server.post(b" " * (SMALL_BYTES + 100), path).status_code == 429
        assert server.chat("small ones pass")["choices"][0]["finish_reason"] == "stop"
        stack.close()  # the clients leave inside their bodies
        server.wait_for(lambda: budget.held_bytes == 0)
        assert server.post({"messages": [user("x" * (SMALL_BYTES + 100))]}).status_code == 400  # read, and too long


def test_an_announced_size_takes_nothing_from_others() -> None:
    with running_server(max_in_flight_bytes=8192) as server, contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            connection.sendall(f"{head}content-length: 100000\r\n\r\n{{".encode())
        assert server.chat("ok")["choices"][0]["message"]["content"] == "ok"


def test_an_answer_holds_its_prompt_until_it_ends() -> None:
    with running_server() as server:
        budget = server.service.reception.budget
        server.gate.open.clear()
        stream = server.http.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True})
        sender = threading.Thread(target=stream.__enter__)
        sender.start()
        server.wait_for(lambda: server.service.engine.num_live == 1)
        assert budget.held_bytes == 21 * 40  # 21 tokens
        server.gate.open.set()
        sender.join()
        stream.__exit__(None, None, None)
        server.wait_for(lambda: budget.held_bytes == 0)


def test_work_of_clients_that_left_is_not_done(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = server.service.model.tokenizer
    encode, begun, go_on, finished = tokenizer.encode_plain, threading.Event(), threading.Event(), []

    def slow(text: str, **options: Any) -> list[int]:
        begun.set()
        assert go_on.wait(30)
        finished.append(text)
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode_plain", slow)
    turns, budget = server.service.reception.turns, server.service.reception.budget

    def give_up() -> None:
        with contextlib.suppress(httpx.TimeoutException):
            server.post({"prompt": "x" * 100_000}, "/tokenize", timeout=0.3)

    clients = [threading.Thread(target=give_up) for _ in range(6)]
    for client in clients:
        client.start()
    assert begun.wait(10)
    for client in clients:
        client.join()
    server.wait_for(lambda: turns.num_busy == 1)  # one works on, the others are gone from the queue
    server.wait_for(lambda: budget.held_bytes == 0)
    assert server.chat("small ones need no turn")["choices"][0]["finish_reason"] == "stop"
    go_on.set()
    server.wait_for(lambda: turns.num_busy == 0)
    assert len(finished) == 1


def test_memory_comes_back(server: RunningServer) -> None:
    bodies = [nasty for nasty in nasty_bodies(server.service.reception.limits.max_bytes) if nasty.path == CHAT]

    def crowd() -> None:
        threads = [threading.Thread(target=server.post, args=(body.body, body.path)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for _ in range(2):  # threads and their arenas come with the first work
        crowd()
    server.wait_idle()
    before = _resident_bytes()
    for _ in range(3):
        crowd()
    server.wait_idle()
    grown = _resident_bytes() - before
    print(f"resident memory grew by {grown / 2**20:.1f} MiB over {3 * len(bodies)} bodies")
    assert grown < 128 * 2**20
    assert server.service.reception.budget.held_bytes == 0


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def test_small_requests_pass_large_ones(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = server.service.model.tokenizer
    encode, go_on = tokenizer.encode_plain, threading.Event()

    def slow(text: str, **options: Any) -> list[int]:
        if len(text) > SMALL_BYTES:
            assert go_on.wait(30)
        return encode(text, **options)

    monkeypatch.setattr(tokenizer, "encode_plain", slow)
    large = [threading.Thread(target=server.post, args=({"prompt": "x" * 100_000}, "/tokenize")) for _ in range(4)]
    for client in large:
        client.start()
    server.wait_for(lambda: server.service.reception.turns.num_busy == 4)
    begin = time.monotonic()
    assert server.post({"prompt": "x" * 20_000}, "/tokenize").json()["count"] == 20_000
    assert not go_on.is_set()
    go_on.set()
    for client in large:
        client.join()
    assert time.monotonic() - begin < 60  # a bound on hanging, not a measurement
