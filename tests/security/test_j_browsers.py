"""Class J, the browser as a stepping stone: a web page gets nothing out of a server that asks for no key.

Repeats the cause of CVE-2024-28224 (Ollama: DNS rebinding), and of posts that a browser sends to local servers without
asking first, because their content type is one that a form could send.
"""

from __future__ import annotations

import pytest

from api.edge.hosts import host_name
from tests.api.scripted_server import RunningServer, running_server
from tests.security.raw_http import CLOSE, GOOD, HOST, JSON, get, head, talk

OURS = [
    b"0.0.0.0:8000", b"localhost:8000", b"LOCALHOST", b"127.0.0.1", b"127.8.9.1:1", b"[::1]:8000", b"[::]",
    b"192.168.1.7:8000", b"localhost.", b"app.localhost:3000", b"[fe80::1]:80",
]  # fmt: skip
STRANGERS = [
    b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"127.0.0.1.evil.example", b"notlocalhost",
    b"localhost:x", b"localhost@evil.example", b"localhost/evil", b"[::1", b"[evil]", b"::1", b"", b":8000",
    b"\xe9vil.example", b"2130706433", b"0x7f000001", b"x" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("host", OURS)
def test_addresses_and_localhost_are_answered(server: RunningServer, host: bytes) -> None:
    (answer,) = talk(server, head(b"host: " + host, JSON, CLOSE, b"content-length: %d" % len(GOOD)) + GOOD)
    assert answer.status == 200


@pytest.mark.parametrize("host", STRANGERS)
def test_other_names_are_refused_without_a_key(server: RunningServer, host: bytes) -> None:
    for target in (b"/v1/models", b"/v1/metrics", b"/nope", b"/docs"):
        (answer,) = talk(server, head(b"host: " + host, CLOSE, method=b"GET", target=target))
        assert (answer.status, answer.error["type"]) == (403, "PermissionDeniedError")
        assert "--allowed-host" in answer.error["message"]
        assert len(answer.body) < 500


def test_the_refusal_says_what_to_set(server: RunningServer) -> None:
    (answer,) = talk(server, head(b"host: Models.Example:8000", CLOSE, method=b"GET", target=b"/v1/models"))
    assert answer.error["message"] == (
        "This server does not answer to the host 'Models.Example:8000': use its address, or start it with "
        "--allowed-host models.example (or with an API key)."
    )


def test_probes_are_answered_by_any_name(server: RunningServer) -> None:
    for lines in ([b"host: pod.example"], [HOST, b"host: other"], []):
        (answer,) = talk(server, head(*lines, CLOSE, method=b"GET", target=b"/v1/health/live"))
        assert answer.status == 200


def test_named_hosts_are_answered() -> None:
    with running_server(allowed_host=("Models.Example", "*.internal")) as server:
        cases = {
            b"models.example": 200, b"models.example:80": 200, b"a.internal": 200, b"b.a.internal": 200,
            b"localhost": 200, b"127.0.0.1": 200, b"internal": 403, b"xinternal": 403, b"a.models.example": 403,
        }  # fmt: skip
        for host, status in cases.items():
            (answer,) = talk(server, head(b"host: " + host, CLOSE, method=b"GET", target=b"/v1/version"))
            assert answer.status == status, host


def test_with_a_key_every_name_is_answered_unless_some_are_named() -> None:
    key = b"authorization: Bearer secret-key"
    strange = head(b"host: any.example", key, CLOSE, method=b"GET", target=b"/v1/version")
    with running_server(api_key=("secret-key",)) as server:
        assert talk(server, strange)[0].status == 200
    with running_server(api_key=("secret-key",), allowed_host=("models.example",)) as server:
        assert talk(server, strange)[0].status == 403
    with running_server(allowed_host=("*",)) as server:
        assert talk(server, strange)[0].status == 200


def test_old_clients_need_no_host(server: RunningServer) -> None:
    assert talk(server, head(method=b"GET", target=b"/v1/version", version=b"1.0"))[0].status == 200


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [b"content-type: text/plain"],
        [b"content-type: text/plain;charset=UTF-8"],
        [b"content-type: application/x-www-form-urlencoded"],
        [b"content-type: multipart/form-data; boundary=x"],
        [b"content-type: text/plain; application/json"],
        [b"content-type:"],
        [b"content-type: application/jsonp"],
    ],
)
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/completions", b"/tokenize", b"/detokenize"])
def test_a_body_that_a_page_may_send_unasked_is_refused(server: RunningServer, path: bytes, lines: list[bytes]) -> None:
    before = server.service.engine.stats()
    size = b"content-length: %d" % len(GOOD)
    (answer,) = talk(server, head(HOST, CLOSE, size, *lines, target=path) + GOOD)
    assert (answer.status, answer.error["message"]) == (
        400,
        "Unsupported Media Type: Only 'application/json' is allowed",
    )
    assert server.service.engine.stats().num_running == before.num_running


def test_a_page_learns_nothing_from_an_answer(server: RunningServer) -> None:
    (answer,) = talk(server, get(b"/v1/models", b"origin: https://evil.example", CLOSE))
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_host_names() -> None:
    assert [host_name(value) for value in (b"A.B:80", b"[::1]:80", b"a:", b"a:b", b"a b", b"[a")] == [
        "a.b", "::1", "a", None, None, None,
    ]  # fmt: skip
