"""Class M, information in errors: every kind of error, driven over the socket, tells nothing of the inside.

Repeats the cause of CVE-2025-23319, CVE-2025-23320 and CVE-2025-23334 (Triton: a name of shared memory in an error's
text was the first step to running code).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.controllers import management
from api.error_answer import _TYPES
from tests.api.scripted_server import RunningServer, running_server, user
from tests.paths import ROOT
from tests.security.raw_http import CLOSE, GOOD, HOST, JSON, get, head, post, talk

SECRET = "a-secret-key-of-ours"
KEY = b"authorization: Bearer " + SECRET.encode()
INSIDE = re.compile(
    r"Traceback|\.py\b|line \d+, in|0x[0-9a-f]{6}|/(?:usr|home|root|tmp|work|proc|opt|var|dev)\b|site-packages|"
    r"litestar|uvicorn|msgspec|httptools|minijinja|tokenizers\b|numpy|onnxruntime|Error\(|Exception|object at|"
    + re.escape(str(ROOT))
    + "|"
    + SECRET
)
TALKATIVE = RuntimeError(f"cannot read {ROOT}/secret.py at 0xdeadbeef: {SECRET}")


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with running_server(api_key=(SECRET,), header_timeout_s=0.2, max_body_bytes=4096) as server:
        yield server


def _chat(**fields: Any) -> bytes:
    return post(json.dumps({"messages": [user("ok")], **fields}).encode(), KEY, CLOSE)


BAD = b'{"messages":[{"role":"user","content":'
REQUESTS: dict[str, tuple[bytes, int]] = {
    "malformed": (b"GARBAGE\r\n\r\n", 400),
    "two hosts": (get(b"/v1/models", HOST, KEY, CLOSE), 400),
    "no JSON": (post(BAD, KEY, CLOSE), 400),
    "no UTF-8": (post(b'{"a":"\xff"}', KEY, CLOSE), 400),
    "no object": (post(b"[1]", KEY, CLOSE), 400),
    "too deep": (post(b"[" * 2000, KEY, CLOSE), 400),
    "a huge number": (post(b'{"seed":' + b"9" * 400 + b"}", KEY, CLOSE), 400),
    "no type": (head(HOST, KEY, CLOSE, b"content-length: 2") + b"{}", 400),
    "compressed": (post(GOOD, KEY, CLOSE, b"content-encoding: gzip"), 400),
    "wrong field": (_chat(temperature="hot"), 400),
    "field out of range": (_chat(top_p=7), 400),
    "unsupported field": (_chat(tools=[{"type": "function", "function": {"name": "f"}}]), 400),
    "a template": (_chat(chat_template="{{ self.__class__ }}"), 400),
    "the template refuses": (_chat(messages=[{"role": "tool", "tool_call_id": "1", "content": "x"}]), 400),
    "template arguments": (_chat(chat_template_kwargs={"messages": 1}), 400),
    "too long": (_chat(max_tokens=10_000), 400),
    "no token": (post(b'{"tokens":[99999999]}', KEY, CLOSE).replace(b"/v1/chat/completions", b"/detokenize"), 400),
    "no key": (get(b"/v1/models", CLOSE), 401),
    "wrong key": (get(b"/v1/models", b"authorization: Bearer x", CLOSE), 401),
    "no model": (_chat(model="../../etc/passwd"), 404),
    "no path": (get(b"/v1/../../../etc/passwd", KEY, CLOSE), 404),
    "no model card": (get(b"/v1/models/..%2f..%2fetc%2fpasswd", KEY, CLOSE), 404),
    "wrong method": (get(b"/v1/chat/completions", KEY, CLOSE), 405),
    "slow": (b"GET / HTTP/1.1\r\n", 408),
    "too large": (head(HOST, KEY, JSON, b"content-length: 99999"), 413),
    "a long target": (get(b"/" + b"x" * 9000), 414),
    "many headers": (get(b"/", *[b"a: b"] * 200), 431),
    "the model fails": (_chat(messages=[user("!0:x")]), 500),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_no_error_tells_of_the_inside(keyed: RunningServer, name: str) -> None:
    raw, status = REQUESTS[name]
    (answer,) = talk(keyed, raw)
    assert answer.status == status, answer.body
    assert not INSIDE.search(answer.error["message"]), answer.error
    assert not [value for value in answer.headers.values() if INSIDE.search(value)]
    assert "server" not in answer.headers


def test_a_foreign_host() -> None:
    with running_server() as server:
        (answer,) = talk(server, get(b"/", CLOSE).replace(b"localhost", b"evil.example"))
    assert answer.status == 403
    assert not INSIDE.search(answer.error["message"])


def test_a_fault_of_ours(keyed: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise TALKATIVE

    monkeypatch.setattr(management, "version", fail)
    (answer,) = talk(keyed, get(b"/v1/version", KEY, CLOSE))
    assert (answer.status, answer.error["message"]) == (500, "Internal server error")
    assert not INSIDE.search(answer.body.decode())


def test_a_failure_inside_a_stream(keyed: RunningServer) -> None:
    response = keyed.post({"messages": [user("!2:abc")], "stream": True}, headers={"authorization": f"Bearer {SECRET}"})
    assert response.status_code == 200
    *_, failed, done = [event for event in response.text.split("\n\n") if event]
    assert json.loads(failed.removeprefix("data: "))["error"]["message"] == "Internal server error"
    assert done == "data: [DONE]"
    assert not INSIDE.search(response.text)


def test_overload() -> None:
    with running_server(max_queue=0) as server, ThreadPoolExecutor(4) as pool:
        server.gate.open.clear()
        running = [pool.submit(server.chat, "ok") for _ in range(4)]
        server.wait_for(lambda: server.service.engine.num_live == 4)
        (answer,) = talk(server, post(GOOD, CLOSE))
        server.gate.open.set()
        assert [one.result()["choices"][0]["finish_reason"] for one in running] == ["stop"] * 4
    assert (answer.status, answer.error["type"]) == (429, "RateLimitError")
    assert not INSIDE.search(answer.error["message"])


def test_a_dead_engine() -> None:
    with running_server() as server:
        worker = server.service.engine._worker
        deliver = worker._deliver

        def die_once(events: Any) -> None:
            worker._deliver = deliver  # type: ignore[method-assign]
            raise TALKATIVE

        worker._deliver = die_once  # type: ignore[method-assign]
        found = talk(server, post(GOOD, CLOSE))
        server.wait_for(lambda: server.service.engine.failure is not None)
        for raw in (post(GOOD, CLOSE), get(b"/v1/health/ready", CLOSE), get(b"/v1/health/live", CLOSE)):
            found += talk(server, raw)
    assert [answer.status for answer in found[1:]] == [503] * 3
    assert not [answer for answer in found if INSIDE.search(answer.error["message"])]


def test_every_kind_of_error_is_driven() -> None:
    # 409 is an admin's alone: tests/api/controllers/test_several_models.py
    driven = {status for _, status in REQUESTS.values()} | {403, 409, 429, 503}
    assert driven >= set(_TYPES)
