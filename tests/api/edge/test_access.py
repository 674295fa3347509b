"""Contract cases 93 to 95: unknown paths and methods, other origins, keys, request ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from api.controllers.openapi import OPERATIONS
from api.edge.paths import path_rule
from api.errors import SettingsError
from api.server_settings import Settings
from api.settings_rules import check_settings
from tests.api.scripted_server import NAMES, RunningServer, running_server, user

KEY = "secret-key"
DENIED = {401, 429}  # the second where an address was denied too often


def test_case_093_unknown_paths_and_methods(server: RunningServer) -> None:
    missing = server.get("/v1/nope")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "NotFoundError")
    for path in ("/v1/responses/resp_1", "/v1/messages/batches", "/v1/embeddings", "/health/../v1/x"):
        assert server.post({}, path).status_code == 404
    wrong = server.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "MethodNotAllowedError")
    assert set(wrong.headers["allow"].replace(" ", "").split(",")) == {"POST", "OPTIONS"}


@pytest.fixture(scope="module")
def behind_proxy() -> Iterator[RunningServer]:
    """With a key, below a prefix, and with paths without their version."""
    settings: dict[str, Any] = {"api_key": (KEY,), "root_path": "/llm", "unversioned_paths": True}
    with running_server(**settings, management_port=0, cors_allow_origin=("https://a.example",)) as running:
        yield running


@pytest.mark.parametrize("prefix", ["", "/llm"])
def test_paths_below_a_prefix_and_without_a_version(behind_proxy: RunningServer, prefix: str) -> None:
    server, key = behind_proxy, {"x-api-key": KEY}
    for path in ("/v1/chat/completions", "/chat/completions", "/chat/completions/"):
        assert server.post({"messages": [user("abc")]}, prefix + path).status_code in DENIED
        answer = server.post({"messages": [user("abc")]}, prefix + path, headers=key)
        assert answer.json()["choices"][0]["message"]["content"] == "abc"
    body = {"max_tokens": 4, "messages": [user("abc")]}
    assert server.post(body, prefix + "/messages", headers=key).json()["content"][0]["text"] == "abc"
    assert server.post(body, prefix + "/messages").json()["error"]["type"] in {
        "authentication_error",
        "rate_limit_error",
    }
    for path in (
        "/v1/models",
        "/models",
        "/models/test/scripted-model",
        "/v1/metrics",
        "/metrics",
        "/version",
    ):
        assert server.get(prefix + path).status_code in DENIED, path
        assert server.get(prefix + path, headers=key).status_code == 200, path
    for path in ("/v1/health/ready", "/health/ready", "/health/live/", "/health", "/ping"):
        assert server.get(prefix + path).status_code == 200, path
        assert server.get(f"http://127.0.0.1:{server.management_port}{prefix}{path}").status_code == 200, path
    assert server.get(prefix + "/nope", headers=key).status_code == 404
    assert server.get(prefix + "/docs").status_code == 200  # for a browser, which has no key before it has the page
    assert server.get(prefix + "/openapi.json", headers=key).json()["servers"] == [{"url": "/llm"}]


def test_a_prefix_is_a_whole_part_of_a_path(behind_proxy: RunningServer) -> None:
    for path in ("/llmx/health", "/llm/llm/health", "/x/llm/health"):
        assert behind_proxy.get(path).status_code in DENIED, path
        assert behind_proxy.get(path, headers={"x-api-key": KEY}).status_code == 404, path


def test_which_path_is_meant() -> None:
    routes = ("/v1/models", "/v1/models/{model_id:path}", "/v1/version", "/version", "/docs")
    plain, rooted = (path_rule(Settings(root_path=root), routes) for root in ("", "/llm"))
    for path in ("/models", "/llm/v1/models", "/docs"):
        assert plain.meant(path) == path
    for path, meant in {
        "/llm/v1/models": "/v1/models",
        "/llm": "/",
        "/llmx": "/llmx",
        "/llm/models": "/models",
    }.items():
        assert rooted.meant(path) == meant
    short = path_rule(Settings(unversioned_paths=True), routes)
    for path, meant in {"/models": "/v1/models", "/models/a/b": "/v1/models/a/b", "/version": "/version"}.items():
        assert short.meant(path) == meant  # what is a route itself keeps its meaning


def test_a_client_below_a_prefix(behind_proxy: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{behind_proxy.base_url}/llm", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == list(NAMES)
        found = client.chat.completions.create(model=NAMES[0], messages=[{"role": "user", "content": "hi"}])
        assert found.choices[0].message.content == "hi"


@pytest.mark.parametrize("root_path", ["llm", "/llm/", "/", "//llm", "/a b", "/a?b", "https://a.example/llm"])
def test_a_prefix_that_is_no_path_is_refused(root_path: str) -> None:
    with pytest.raises(SettingsError, match=r"root_path: .* is not a path such as /llm"):
        check_settings(Settings(root_path=root_path))


def test_probes_are_open_by_every_name_and_every_other_path_takes_a_key_in_either_header() -> None:
    with running_server(api_key=(KEY,)) as server:
        assert "X-Api-Key" in server.get("/v1/models").json()["error"]["message"]
        for path in ("/v1/health/live", "/v1/health/ready", "/health", "/health/", "/ping"):
            assert server.get(path).status_code == 200, path
        for operation in OPERATIONS:
            path = operation.path.replace("{model_id}", NAMES[0])
            if path.startswith("/v1/health"):
                continue
            body = {"messages": [user("a")], "prompt": "a", "input": "a", "tokens": [1], "max_tokens": 1}
            sent = body if operation.method == "post" else None
            denied = server.http.request(operation.method, path, json=sent)
            assert denied.status_code in DENIED, path
            for headers in ({"X-Api-Key": KEY}, {"Authorization": f"Bearer {KEY}"}):
                answer = server.http.request(operation.method, path, json=sent, headers=headers)
                assert answer.status_code in {200, 400}, (path, answer.text)


def _preflight(server: RunningServer, origin: str) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    return server.http.options("/v1/chat/completions", headers=headers)


def test_case_093_cors_is_closed_by_default(server: RunningServer) -> None:
    bare = server.http.options("/v1/chat/completions")
    assert bare.status_code == 204
    assert "POST" in bare.headers["allow"]
    assert _preflight(server, "https://a.example").status_code == 204
    assert "access-control-allow-origin" not in _preflight(server, "https://a.example").headers


def test_case_093_cors_for_named_origins() -> None:
    with running_server(cors_allow_origin=("https://a.example",), api_key=(KEY,)) as server:
        allowed = _preflight(server, "https://a.example")
        assert allowed.status_code == 204
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "POST" in allowed.headers["access-control-allow-methods"]
        foreign = _preflight(server, "https://b.example")
        assert foreign.status_code == 204
        assert "access-control-allow-origin" not in foreign.headers
        refused = server.get("/v1/models", headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize("settings", [{"api_key": ("",)}, {"api_key": (" ",)}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_unsafe_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError), running_server(**settings):
        pass


def test_case_095_request_ids(server: RunningServer) -> None:
    def echoed(value: str) -> str:
        headers = {b"x-request-id": value.encode()}
        return str(server.get("/v1/models", headers=headers).headers["x-request-id"])

    assert echoed("abc-123_X!") == "abc-123_X!"
    assert echoed("x" * 128) == "x" * 128
    for unsafe in ("x" * 129, "a b", "é"):
        assert echoed(unsafe) != unsafe
    assert len(server.get("/v1/models").headers["x-request-id"]) == 32
    assert len(server.get("/nope").headers["x-request-id"]) == 32


def test_head_works_where_get_does(server: RunningServer) -> None:
    for path in ("/v1/models", "/v1/health/live", "/v1/metrics", "/docs", "/openapi.json"):
        response = server.http.head(path)
        assert response.status_code == 200
        assert response.content == b""
    assert server.http.head("/v1/chat/completions").status_code == 405
