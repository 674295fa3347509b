"""Class J, authentication bypass: every route times every way not to have the key, from the application's own routes.

Repeats the causes of CVE-2026-48746 (vLLM: a path that two layers read differently; and keys that cover only some
prefixes), CVE-2025-63389 (Ollama: routes without a check), CVE-2026-25555 and CVE-2026-75110 (an empty key opens).
"""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.edge.failed_keys import FREE_FAILURES, FailedKeys
from api.edge.keys import KeyRing, key_ring
from api.errors import SettingsError
from api.process.app import routed_app
from api.server_settings import Settings
from tests.api.scripted_server import RunningServer, running_server
from tests.security.raw_http import CLOSE, HOST, Answer, get, head, talk

KEY = b"secret-key"
PER_CONNECTION = 32
OPEN = {b"/v1/health/live", b"/v1/health/ready", b"/health", b"/ping"}
DENIED = ("AuthenticationError", "RateLimitError")
DENIED_MESSAGES = ("authentication_error", "rate_limit_error")  # as Anthropic's clients read it
PAGES = {b"/", b"/docs", b"/openapi.json"}
"""What GET and HEAD read without a key, so that a person can type one in; ``tests/api/pages`` has what it may hold."""
RIGHT = [b"authorization: Bearer " + KEY]
WITHOUT_KEY: list[list[bytes]] = [
    [],
    [b"authorization:"],
    [b"authorization: Bearer"],
    [b"authorization: Bearer "],
    [b"authorization: Bearer wrong"],
    [b"authorization: Bearer " + KEY[:-1]],
    [b"authorization: Bearer " + KEY + b"x"],
    [b"authorization: Bearer " + KEY.upper()],
    [b"authorization: Bearer " + KEY + b"," + KEY],
    [b"authorization: Bearer Bearer " + KEY],
    [b"authorization: Basic " + KEY],
    [b"authorization: " + KEY],
    [b"authorization: Bearer \xff\xfe"],
    [*RIGHT, *RIGHT],
    [b"authorization: Bearer wrong", *RIGHT],
    [b"proxy-authorization: Bearer " + KEY],
    [b"x-api-key:"],
    [b"x-api-key: " + KEY[:-1]],
    [b"x-api-key: Bearer " + KEY],
    [b"x-api-key: " + KEY, b"x-api-key: " + KEY],
    [b"x-api-key: wrong", *RIGHT],
    [b"x-api-key: " + KEY, *RIGHT],
    [b"x-api-key: " + KEY, b"authorization: Bearer wrong"],
    [b"cookie: authorization=Bearer " + KEY],
]


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    with running_server(api_key=("other-key", KEY.decode())) as server:
        yield server


def _routes(server: RunningServer) -> list[tuple[bytes, bytes]]:
    """Method and path of every registered route, and HEAD and OPTIONS of each."""
    found = set()
    for route in routed_app(server.service).routes:
        path = re.sub(r"\{[^}]*\}", "x", route.path).encode()
        methods = getattr(route, "methods", {"GET"})
        found |= {(method.encode(), path) for method in {*methods, "HEAD", "OPTIONS", "POST", "DELETE"}}
    return sorted(found)


def _ask(server: RunningServer, asked: list[tuple[bytes, bytes, list[bytes]]]) -> list[Answer]:
    """One answer for each, in groups that one connection may carry; HEAD apart, as its answers have no body."""
    answers: list[Answer] = []
    for start in range(0, len(asked), PER_CONNECTION):
        group = asked[start : start + PER_CONNECTION]
        last = head(HOST, CLOSE, method=group[-1][0], target=b"/v1/health/live")
        whole = b"".join(head(HOST, *lines, method=method, target=path) for method, path, lines in group)
        found = talk(server, whole, last, bodiless=group[0][0] == b"HEAD")
        assert len(found) == len(group) + 1
        answers += found[:-1]
    return answers


def _is_page(method: bytes, path: bytes) -> bool:
    return path in PAGES and method in {b"GET", b"HEAD"}


@pytest.mark.parametrize("verb", [b"HEAD", None])
def test_case_094_every_route_asks_for_the_key(locked: RunningServer, verb: bytes | None) -> None:
    routes = [route for route in _routes(locked) if (route[0] == b"HEAD") == (verb is not None)]
    assert len(routes) >= 20
    asked = [(method, path, lines) for method, path in routes for lines in WITHOUT_KEY]
    for (method, path, lines), answer in zip(asked, _ask(locked, asked), strict=True):
        if path.rstrip(b"/") in OPEN or _is_page(method, path):
            assert answer.status not in {401, 403, 429}, (method, path, lines)
            continue
        assert answer.status in {401, 429}, (method, path, lines)  # 429: the address was denied too often
        if verb is None:
            words = DENIED_MESSAGES if path.startswith(b"/v1/messages") else DENIED
            assert msgspec.json.decode(answer.body)["error"]["type"] == words[answer.status == 429]
            assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status == 401 else None)
    with_key = [(method, path, RIGHT) for method, path in routes]
    for (method, path, _), answer in zip(with_key, _ask(locked, with_key), strict=True):
        assert answer.status not in {401, 403, 429}, (method, path)


@pytest.mark.parametrize(
    "path",
    [
        b"/", b"//", b"/nope", b"//v1/models", b"/v1//models", b"/v1/%6dodels", b"/v1/models/", b"/v1/models%00",
        b"/v1/models;x", b"/v1/models?x", b"/v1/health/live/../../models", b"/v1/health/live/..%2f..%2fmodels",
        b"/v1/health/live%2f..%2f..%2fmodels", b"/v1/health/live;/../models", b"/v1/health/live%3f", b"/v1/health",
        b"/v1/health/live%00", b"/v1/health/live//", b"/V1/HEALTH/LIVE", b"/v1/health/livex", b"/health/live",
        b"/v1/./health/live", b"/v1/health/%2e/live", b"/health//", b"/healthz", b"/ping/x", b"/metrics",
        b"/v1/metrics", b"/docs", b"//docs", b"/docs//", b"/DOCS", b"/docs/x", b"/docs/../v1/models",
        b"/docs/%2e%2e/v1/models", b"/docs%2f..", b"/docs;/../v1/models", b"/docs%00",
        b"/openapi.json/../v1/models", b"/docs/rapidoc-min.js/x",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_gets_around_the_key(locked: RunningServer, path: bytes) -> None:
    for method in (b"GET", b"POST", b"OPTIONS", b"PUT", b"TRACE"):
        (answer,) = _ask(locked, [(method, path, [])])
        assert answer.status in {401, 429} or _is_page(method, path), method


def test_open_probes_say_nothing_but_their_state(locked: RunningServer) -> None:
    for path in (b"/v1/health/live", b"/v1/health/ready/", b"/v1/health/live?x=1", b"/v1/health/%6Cive"):
        (answer,) = _ask(locked, [(b"GET", path, [])])
        assert answer.status == 200
        assert answer.body in {
            b'{"object":"health.response","message":"Service is live."}',
            b'{"object":"health.response","message":"Service is ready."}',
        }


def test_only_a_real_preflight_passes_without_a_key(locked: RunningServer) -> None:
    origin, method = b"origin: https://a.example", b"access-control-request-method: POST"
    cases = [
        (b"OPTIONS", [origin, method], True),
        (b"OPTIONS", [origin], False),
        (b"OPTIONS", [origin, method, b"authorization: Bearer wrong"], False),
        (b"OPTIONS", [origin, method, b"x-api-key: wrong"], False),
        (b"GET", [origin, method], False),
        (b"POST", [origin, method], False),
    ]
    for verb, lines, passes in cases:
        (answer,) = _ask(locked, [(verb, b"/v1/chat/completions", lines)])
        assert (answer.status == 204) == passes, lines


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = key_ring(Settings(api_key=("first", "second", "third")))
    scope: Any = {"headers": [(b"authorization", b"Bearer first")]}
    assert getattr(ring.holder(scope), "name", None) == "key-1"
    scope["headers"] = [(b"authorization", b"Bearer a-guess-of-another-length")]
    assert ring.holder(scope) == "wrong_key"
    assert compared == [(32, 32)] * 6  # digests: their length says nothing of the key's


def test_a_key_has_a_name_that_the_log_shows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# who may call\n\nalice=a-secret-of-hers\n  bare-secret  \n")
    with running_server(api_key=("ops=0123456789",), api_key_file=str(file)) as server:
        with caplog.at_level(logging.INFO, "powertrain.requests"):
            for key in ("a-secret-of-hers", "bare-secret", "0123456789", "alice=a-secret-of-hers", "alice"):
                server.get("/v1/version", headers={"authorization": f"Bearer {key}"})
            server.get("/v1/version")
            server.wait_idle()
        assert server.metric("request_refused_total", code="401") == 3
    fields = [record.fields for record in caplog.records if record.name == "powertrain.requests"]  # type: ignore[attr-defined]
    lines = [(line["status"], line["client"], line.get("key"), line.get("denied")) for line in fields]
    assert lines == [
        (200, "127.0.0.1", "alice", None),
        (200, "127.0.0.1", "key-3", None),
        (200, "127.0.0.1", "ops", None),
        (401, "127.0.0.1", None, "wrong_key"),
        (401, "127.0.0.1", None, "wrong_key"),
        (401, "127.0.0.1", None, "no_key"),
    ]
    levels = {record.fields["status"]: record.levelname for record in caplog.records if hasattr(record, "fields")}
    assert levels == {200: "INFO", 401: "WARNING"}
    assert "secret" not in caplog.text


@pytest.mark.parametrize("text", ["abc==", "YWJjZGVmZ2hpams=", "a=b", "key=short", "0=0123456789", "sk-1/2=34567890"])
def test_a_secret_that_holds_an_equals_sign_stays_whole(text: str) -> None:
    ring = key_ring(Settings(api_key=(text,)))
    assert ring.names == ("key-1",)
    scope: Any = {"headers": [(b"authorization", b"Bearer " + text.encode())]}
    assert getattr(ring.holder(scope), "name", None) == "key-1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no key"),
        ("# nothing\n\n", "holds no key"),
        ("caf\u00e9-of-some-length", "key 1 is empty or not printable ASCII"),
        ("same-secret\nsame-secret", "two keys have the same secret"),
        ("a=first-secret\na=other-secret", "two keys have the same name"),
        (None, "is not readable"),
    ],
)
def test_an_unusable_key_file_ends_the_start(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        key_ring(Settings(api_key_file=str(file)))


@pytest.mark.parametrize("settings", [{"api_key": ("",)}, {"api_key": (" ",)}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_unsafe_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError), running_server(**settings):
        pass


def test_no_keys_ask_for_none() -> None:
    assert not KeyRing()


def test_an_address_that_fails_again_and_again_has_to_wait_and_locks_nobody_out() -> None:
    with running_server(api_key=(KEY.decode(),)) as server:
        right = {"authorization": f"Bearer {KEY.decode()}"}
        statuses = []
        for _ in range(FREE_FAILURES + 2):
            response = server.get("/v1/models", headers={"authorization": "Bearer wrong"})
            statuses.append(response.status_code)
            assert server.get("/v1/models", headers=right).status_code == 200
        assert statuses == [401] * FREE_FAILURES + [429] * 2
        assert (response.headers["retry-after"], response.headers["x-should-retry"]) == ("2", "false")
        assert response.json()["error"]["type"] == "RateLimitError"
        assert server.metric("request_refused_total", code="429") == 2


def test_the_wait_grows_to_a_minute_and_is_forgotten_after_one() -> None:
    now = 0.0
    failed = FailedKeys(lambda: now)
    waits = [failed.note("a") for _ in range(FREE_FAILURES + 9)]
    assert waits == [0] * FREE_FAILURES + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert failed.note("b") == 0
    now = 59.9
    assert failed.note("a") == 60
    now = 119.9
    assert failed.note("a") == 0


def test_the_table_of_addresses_is_bounded() -> None:
    failed = FailedKeys(lambda: 0.0)
    for _ in range(FREE_FAILURES + 1):
        failed.note("first")
    for number in range(5000):
        failed.note(str(number))
    assert len(failed._failures) == 1024
    assert failed.note("first") == 0


def test_a_forwarded_address_is_believed_from_a_trusted_proxy_only(caplog: pytest.LogCaptureFixture) -> None:
    for trusted, client in (((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.7")):
        caplog.clear()
        with running_server(trusted_proxy=trusted) as server, caplog.at_level(logging.INFO, "powertrain.requests"):
            talk(server, get(b"/v1/version", b"x-forwarded-for: 203.0.113.7", CLOSE))
            server.wait_idle()
        fields = [record.fields for record in caplog.records if record.name == "powertrain.requests"]  # type: ignore[attr-defined]
        assert [line["client"] for line in fields] == [client]
