"""What tests of refused requests share: one good request, and the shape that every error has."""

from __future__ import annotations

from typing import Any

import httpx

from tests.api.scripted_server import RunningServer, user

MESSAGES = [user("ok")]
PROMPT_LEN = 21  # "ok" in the scripted template: see test_case_003_usage


def refused(server: RunningServer, body: Any, status: int = 400, **options: Any) -> dict[str, Any]:
    """The error of a refused request; checks the shape that every error has."""
    response = server.post(body, **options)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert list(response.json()) == ["error"]
    assert list(error) == ["object", "message", "type", "param", "code"]
    assert error["object"] == "error"
    assert error["code"] == status
    assert "0x" not in error["message"]
    assert ".py" not in error["message"]
    return dict(error)


def refused_param(server: RunningServer, **fields: Any) -> str | None:
    """The field at fault of a request that is right otherwise; refused in the stream's form too."""
    error = refused(server, {"messages": MESSAGES, **fields})
    assert error["type"] == "BadRequestError"
    if "stream" not in fields and "stream_options" not in fields:
        assert refused(server, {"messages": MESSAGES, "stream": True, **fields}) == error
    param: str | None = error["param"]
    return param


def accepted(server: RunningServer, **fields: Any) -> httpx.Response:
    response = server.post({"messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    return response
