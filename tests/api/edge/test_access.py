"""Contract cases 93 to 95: unknown paths and methods, other origins, keys, request ids."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from api.errors import SettingsError
from tests.api.scripted_server import RunningServer, running_server

KEY = "secret-key"


def test_case_093_unknown_paths_and_methods(server: RunningServer) -> None:
    missing = server.get("/v1/nope")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "NotFoundError")
    for path in ("/v1/responses/resp_1", "/v1/messages/batches", "/v1/embeddings", "/health/../v1/x"):
        assert server.post({}, path).status_code == 404
    wrong = server.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (405, "MethodNotAllowedError")
    assert set(wrong.headers["allow"].replace(" ", "").split(",")) == {"POST", "OPTIONS"}


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
