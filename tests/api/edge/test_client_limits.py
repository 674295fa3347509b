"""What a client may use, end to end: a keys file, the real clients, a clock that tests move."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from api.clients.client import Clients
from runtime.engine.async_engine import AsyncEngine
from runtime.errors import Overloaded
from tests.api.scripted_server import RunningServer, running_server, user

SECRETS = {name: f"secret-of-{name}" for name in ("team", "other", "tokens", "lone", "watch", "boss", "old", "both")}
LIMITS = {
    "team": "requests_per_minute = 3",
    "other": "",
    "tokens": "tokens_per_minute = 100",
    "lone": "max_concurrency = 1",
    "watch": 'role = "metrics"',
    "boss": 'role = "admin"\ntokens_per_minute = 1000',
    "both": "requests_per_minute = 2\ntokens_per_minute = 100",
    "old": "expires = 2020-01-01T00:00:00Z",
}
LENGTH = 22  # tokens of the prompt that ``asked`` makes of three letters


class Clock:
    """Nanoseconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 10**9)


class Steps(threading.Event):
    """A gate that lets a number of steps pass before it is opened."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left >= 0 or super().wait(timeout)


class PatientClient(openai.OpenAI):
    """OpenAI's client with its own rules of retrying, which waits on the test's clock."""

    waits: list[float]
    clock: Clock

    def _sleep_for_retry(self, *, retries_taken: int, max_retries: int, options: Any, response: Any) -> None:
        left = max_retries - retries_taken
        self.waits.append(self._calculate_retry_timeout(left, options, response.headers if response else None))
        self.clock.pass_s(self.waits[-1])


def entry(name: str, limits: str) -> str:
    digest = hashlib.sha256(SECRETS[name].encode()).hexdigest()
    return f'[[key]]\nname = "{name}"\nsha256 = "{digest}"\n{limits}\n'


def write(path: Path, limits: dict[str, str]) -> None:
    path.write_text("".join(entry(name, given) for name, given in limits.items()))


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    write(path, LIMITS)
    return path


@pytest.fixture(scope="module")
def limited(file: Path, clock: Clock) -> Iterator[RunningServer]:
    with running_server(
        keys_file=str(file),
        api_key=("ops=0123456789",),
        management_port=0,
        cors_allow_origin=("https://a.example",),
        keep_alive_s=0.05,
        clients=Clients(clock),
    ) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(limited: RunningServer, clock: Clock, file: Path) -> None:
    """Every budget full, every limit as in the file."""
    limited.wait_idle()
    write(file, LIMITS)
    reload(limited)
    clock.pass_s(60)


def reload(server: RunningServer) -> None:
    """Send SIGHUP to this process, whose main thread takes it for the server, and wait until it was obeyed."""
    done = threading.Event()
    loop = server.server._loop
    assert loop is not None
    with server.server.capture_signals():
        signal.raise_signal(signal.SIGHUP)
        loop.call_soon_threadsafe(done.set)
    assert done.wait(10)


def used(server: RunningServer, name: str, client: str, **labels: str) -> float:
    return server.metric(f"powertrain_client_{name}", client=client, **labels)


def asked(text: str = "abc", **fields: Any) -> dict[str, Any]:
    return {"messages": [user(text)], **fields}


def limits_of(headers: Any) -> dict[str, str]:
    return {name.removeprefix("x-ratelimit-"): value for name, value in headers.items() if "ratelimit" in name}


def test_requests_per_minute_are_exact_and_their_headers_are_openais(limited: RunningServer, clock: Clock) -> None:
    told = [limits_of(limited.post(asked(), headers=key("team")).headers) for _ in range(3)]
    assert told == [
        {"limit-requests": "3", "remaining-requests": left, "reset-requests": reset}
        for left, reset in (("2", "20s"), ("1", "40s"), ("0", "1m0s"))
    ]
    clock.pass_s(7.5)
    refused = limited.post(asked(), headers=key("team"))
    assert refused.status_code == 429
    assert refused.json()["error"] == {
        "object": "error",
        "message": "Rate limit of this API key: 3 requests per minute are the limit; try again in 13 s.",
        "type": "RateLimitError",
        "param": None,
        "code": 429,
    }
    assert refused.headers["retry-after"] == "13"  # 12.5, in whole seconds
    assert limits_of(refused.headers) == {
        "limit-requests": "3", "remaining-requests": "0", "reset-requests": "52.5s"
    }  # fmt: skip
    assert limited.post(asked(), headers=key("other")).status_code == 200  # nobody else pays
    clock.pass_s(12.499999999)
    assert limited.post(asked(), headers=key("team")).status_code == 429
    clock.pass_s(0.000000001)
    assert limited.post(asked(), headers=key("team")).status_code == 200
    assert limited.post(asked(), headers=key("team")).status_code == 429


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/v1/chat/completions", asked(), "RateLimitError"),
        ("/v1/chat/completions/render", asked(), "RateLimitError"),
        ("/v1/completions", {"prompt": "abc"}, "RateLimitError"),
        ("/v1/responses", {"input": "abc"}, "RateLimitError"),
        ("/v1/messages", asked(max_tokens=4), "rate_limit_error"),
        ("/v1/messages/count_tokens", asked(), "rate_limit_error"),
        ("/tokenize", {"prompt": "abc"}, "RateLimitError"),
        ("/detokenize", {"tokens": [1]}, "RateLimitError"),
    ],
)
def test_every_request_with_a_body_counts(limited: RunningServer, path: str, body: Any, kind: str) -> None:
    statuses = [limited.post(body, path, headers=key("team")).status_code for _ in range(3)]
    refused = limited.post(body, path, headers=key("team"))
    assert (statuses, refused.status_code, refused.json()["error"]["type"]) == ([200] * 3, 429, kind)
    for free in ("/v1/models", "/v1/version", "/v1/models"):
        answer = limited.get(free, headers=key("team"))
        assert (answer.status_code, limits_of(answer.headers)) == (200, {})


def test_a_browsers_script_may_read_what_it_is_told(limited: RunningServer) -> None:
    answer = limited.post(asked(), headers={**key("both"), "origin": "https://a.example"})
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert len(limits_of(answer.headers)) == 6
    assert {f"x-ratelimit-{name}" for name in limits_of(answer.headers)} < set(exposed)


def test_openais_client_succeeds_after_the_wait_that_it_was_told(limited: RunningServer, clock: Clock) -> None:
    with PatientClient(base_url=f"{limited.base_url}/v1", api_key=SECRETS["tokens"], max_retries=1) as client:
        client.waits, client.clock = [], clock
        for _ in range(5):
            answer = client.chat.completions.create(
                model="alias-name", messages=[{"role": "user", "content": "abc"}], max_tokens=40
            )
            assert answer.choices[0].message.content == "abc"
            assert answer.usage is not None
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (LENGTH, 4)
    # 62 are reserved each time and 26 paid: after two, 48 are left. 14 lack, or 8.4 s; after 9 s there are 63.
    # Then 37 are left and 25 lack, or 15 s to the nanosecond; then 36, and 26 lack, or 15.6 s.
    assert client.waits == [9.0, 15.0, 16.0]


def test_tokens_are_reserved_for_the_longest_answer_and_settled_for_the_real_one(
    limited: RunningServer, clock: Clock
) -> None:
    plain = limited.post(asked(max_tokens=40), headers=key("tokens"))
    assert limits_of(plain.headers) == {"limit-tokens": "100", "remaining-tokens": "74", "reset-tokens": "15.6s"}
    clock.pass_s(60)
    limited.gate.open.clear()
    with limited.http.stream(
        "POST", "/v1/chat/completions", json=asked("*ab", max_tokens=60, stream=True), headers=key("tokens")
    ) as stream:
        assert limits_of(stream.headers)["remaining-tokens"] == "18"
        limited.gate.open.set()
        second = limited.post(asked("x", max_tokens=1), headers=key("tokens"))
        assert second.status_code == 429
        assert "18 are left and 21 are needed" in second.json()["error"]["message"]
        stream.read()
    limited.wait_idle()
    assert limits_of(limited.post({"prompt": "x", "max_tokens": 1}, "/v1/completions", headers=key("tokens")).headers)[
        "remaining-tokens"
    ] == "16"  # fmt: skip


def test_a_client_that_leaves_pays_for_what_it_was_sent(limited: RunningServer, clock: Clock) -> None:
    before = [used(limited, "tokens_total", "tokens", kind=kind) for kind in ("prompt", "completion")]
    request = asked("*ab", max_tokens=60, stream=True)
    steps = limited.gate.open = Steps(4)
    with limited.http.stream("POST", "/v1/chat/completions", json=request, headers=key("tokens")) as stream:
        for position, _ in enumerate(line for line in stream.iter_lines() if '"content":"' in line):
            if position == 4:  # the first says the role alone
                break
    limited.wait_for(lambda: used(limited, "requests_running", "tokens") == 0)
    steps.set()
    limited.wait_idle()
    prompt, generated = (
        used(limited, "tokens_total", "tokens", kind=kind) - count
        for kind, count in zip(("prompt", "completion"), before, strict=True)
    )
    assert (prompt, generated) == (LENGTH, 4)
    answer = limited.post({"prompt": "x", "max_tokens": 0, "echo": True}, "/v1/completions", headers=key("tokens"))
    assert int(limits_of(answer.headers)["remaining-tokens"]) == 100 - LENGTH - 4 - 1


def test_a_request_that_lacks_tokens_is_not_counted_so_that_it_is_served_after_the_wait(
    limited: RunningServer, clock: Clock
) -> None:
    assert limited.post(asked(max_tokens=40), headers=key("both")).status_code == 200
    for _ in range(3):
        refused = limited.post(asked(max_tokens=78), headers=key("both"))
        told = limits_of(refused.headers)
        assert (refused.status_code, told["remaining-requests"], told["remaining-tokens"]) == (429, "1", "74")
    clock.pass_s(int(refused.headers["retry-after"]))
    assert refused.headers["retry-after"] == "16"  # 26 lack, at 100 a minute
    assert limited.post(asked(max_tokens=78), headers=key("both")).status_code == 200


def test_a_request_that_never_fits_is_told_so(limited: RunningServer) -> None:
    for path, body in (
        ("/v1/chat/completions", asked(max_tokens=79)),
        ("/v1/chat/completions", asked(max_tokens=40, n=2)),
        ("/v1/completions", {"prompt": ["a" * 50, "b" * 11], "max_tokens": 20}),
    ):
        refused = limited.post(body, path, headers=key("tokens"))
        assert refused.status_code == 400
        assert "has 100 per minute: it can never be served" in refused.json()["error"]["message"]
    assert limited.post(asked(max_tokens=78), headers=key("tokens")).status_code == 200
    assert used(limited, "refused_total", "tokens", reason="too_large") == 3


def test_concurrency_counts_a_stream_until_its_end(limited: RunningServer) -> None:
    body = asked("*ab", max_tokens=50, stream=True)
    limited.gate.open.clear()
    with limited.http.stream("POST", "/v1/chat/completions", json=body, headers=key("lone")) as stream:
        assert stream.status_code == 200
        refused = limited.post(asked(), "/v1/completions", headers=key("lone"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 requests at once, the limit is 1" in refused.json()["error"]["message"]
        assert used(limited, "requests_running", "lone") == 1
        limited.gate.open.set()
        stream.read()
    limited.wait_idle()
    assert limited.post(asked(), headers=key("lone")).status_code == 200
    assert limited.post(b"{", headers=key("lone")).status_code == 400
    assert limited.post(asked(), headers=key("lone")).status_code == 200  # a refused one has left as well
    limited.wait_idle()
    assert used(limited, "requests_running", "lone") == 0


def test_roles(limited: RunningServer) -> None:
    assert limited.management_port is not None
    management = f"http://127.0.0.1:{limited.management_port}"
    for path in ("/v1/metrics", "/metrics", "/metrics/", f"{management}/metrics"):
        statuses = [limited.get(path, headers=key(name)).status_code for name in ("watch", "boss", "other")]
        assert statuses == [200, 200, 403], path
        assert limited.get(path, headers={"x-api-key": "0123456789"}).status_code == 200  # of --api-key
    for path in ("//metrics", "/v1//metrics", "/v1/metrics//", "/v1/%6detrics"):
        assert limited.get(limited.base_url + path, headers=key("other")).status_code in {403, 404}, path
    for path in ("/v1/models", "/v1/version", "/openapi.jsonx", "/v1/metrics/x"):
        assert limited.get(path, headers=key("watch")).status_code == 403, path
    refused = limited.post(asked(), headers=key("watch"))
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "PermissionDeniedError")
    assert limited.post(asked(), headers=key("boss")).status_code == 200
    assert limited.get("/v1/health/ready", headers=key("watch")).status_code == 200
    assert limited.get("/v1/models", headers=key("old")).status_code == 401


def test_metrics_count_by_the_names_in_the_file(limited: RunningServer) -> None:
    counts = [used(limited, "requests_total", name) for name in ("other", "ops", "team")]
    limited.post(asked(), headers=key("other"))
    limited.post(asked("abcd", n=2), headers={"x-api-key": "0123456789"})
    for _ in range(5):
        limited.post(asked(), headers=key("team"))
    limited.post(asked(), headers={"x-api-key": "nobody's"})
    limited.wait_idle()
    now = [used(limited, "requests_total", name) for name in ("other", "ops", "team")]
    assert [one - other for one, other in zip(now, counts, strict=True)] == [1, 1, 3]
    assert used(limited, "refused_total", "team", reason="requests") >= 2
    page = limited.get("/metrics", headers=key("boss")).text
    clients = {line.split('client="')[1].split('"')[0] for line in page.splitlines() if 'client="' in line}
    assert clients == {*LIMITS, "ops"} | (clients & {"later"})


def test_what_the_server_is_to_blame_for_costs_nothing(limited: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_engine: AsyncEngine) -> None:
        raise Overloaded("busy", 3)

    with monkeypatch.context() as patch:
        patch.setattr(AsyncEngine, "require_room", refuse)
        busy = [limited.post(asked(), headers=key("team")) for _ in range(4)]
    assert {(answer.headers["retry-after"], limits_of(answer.headers)["remaining-requests"]) for answer in busy} == {
        ("3", "3")
    }
    assert limited.post(asked("!0:x", max_tokens=20), headers=key("team")).status_code == 500
    assert [limited.post(asked(), headers=key("team")).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert limited.post(asked("!0:x", max_tokens=70), headers=key("tokens")).status_code == 500
    assert limited.post(asked(max_tokens=70), headers=key("tokens")).status_code == 200


def test_a_stream_that_fails_before_its_first_token_costs_nothing(limited: RunningServer) -> None:
    limited.gate.open.clear()
    request = asked("!0:x", max_tokens=70, stream=True)
    with limited.http.stream("POST", "/v1/chat/completions", json=request, headers=key("tokens")) as stream:
        limited.gate.open.set()  # its head has been sent
        assert b'"error"' in stream.read()
    limited.wait_idle()
    assert limited.post(asked(max_tokens=78), headers=key("tokens")).status_code == 200


def test_a_reload_changes_keys_at_once_keeps_budgets_and_running_requests(
    limited: RunningServer, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert [limited.post(asked(), headers=key("team")).status_code for _ in range(3)] == [200] * 3
    limited.gate.open.clear()
    body = asked("*ab", max_tokens=9, stream=True)
    with limited.http.stream("POST", "/v1/chat/completions", json=body, headers=key("other")) as stream:
        write(file, {"team": "requests_per_minute = 5", "boss": LIMITS["boss"]})
        SECRETS["later"] = "a-new-one"
        with file.open("a") as more:
            more.write(entry("later", ""))
        reload(limited)
        assert limited.get("/v1/models", headers=key("other")).status_code == 401
        assert limited.get("/v1/models", headers=key("later")).status_code == 200
        limited.gate.open.set()
        assert b"[DONE]" in stream.read()
    # 3 of 3 were spent, so 2 of 5 are left.
    assert [limited.post(asked(), headers=key("team")).status_code for _ in range(3)] == [200, 200, 429]
    for broken in ("[[key]]\nname = 3", "", "[[key]", entry("team", "") * 2):
        caplog.clear()
        file.write_text(broken)
        reload(limited)
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
            record.message for record in caplog.records if "the keys stay as they were" in record.message
        ]
        assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
        assert limited.get("/v1/models", headers=key("later")).status_code == 200
    assert used(limited, "requests_total", "other") >= 1  # it is gone, its counts are not
