"""Class I, requests made on a client's behalf: the server opens no connection and no file that a request names.

Repeats the causes of CVE-2026-24779 and CVE-2026-34753 (vLLM: media and batch files by URL), CVE-2026-33626 (LMDeploy),
CVE-2026-24158 (Triton: a compressed body) and of paths taken from a client: a model's (CVE-2023-31036, Triton) and the
log's (CVE-2024-0087, Triton).
"""

from __future__ import annotations

import gzip
import socket
from typing import Any

import pytest

from tests.api.scripted_server import RunningServer, user
from tests.security.source_code import called, calls, imports_any, keyword, trees

CLIENTS = frozenset(
    {"urllib.request", "http.client", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "poplib",
     "imaplib", "telnetlib", "websockets", "huggingface_hub"}
)  # fmt: skip
DIALS = frozenset({"create_connection", "open_connection", "connect", "connect_ex", "sendto", "urlopen", "urlretrieve"})
FILES = frozenset(
    {"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir", "iterdir", "glob", "rglob",
     "exists", "is_file", "is_dir", "stat", "Path", "chdir", "listdir"}
)  # fmt: skip
ON_A_REQUESTS_WAY = ("api/controllers", "api/request", "api/response", "runtime/engine", "runtime/sampling")


@pytest.fixture
def outside(server: RunningServer) -> Any:
    """A listening socket that nobody may call."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening.getsockname()[1]
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_the_server_has_no_client() -> None:
    for path, tree in trees("api", "runtime"):
        assert not imports_any(tree, CLIENTS), path
        for call in calls(tree):
            assert called(call).rpartition(".")[2] not in DIALS, path


def test_nothing_on_a_requests_way_opens_a_file() -> None:
    for path, tree in trees(*ON_A_REQUESTS_WAY):
        assert not imports_any(tree, frozenset({"os", "io", "shutil", "tempfile", "glob", "pathlib"})), path
        for call in calls(tree):
            assert called(call) not in {"open", "Path"}, path
            if called(call).rpartition(".")[2] in FILES - {"open", "Path", "exists", "stat"}:
                raise AssertionError(f"{path} calls {called(call)}")


def test_processes_are_started_with_fixed_programs_only() -> None:
    for path, tree in trees("api"):
        assert not imports_any(tree, frozenset({"subprocess", "multiprocessing", "asyncio.subprocess"})), path
    for path, tree in trees("runtime"):
        for call in calls(tree):
            if called(call).startswith("subprocess."):
                assert keyword(call, "shell") in {None, False}, path


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "{url}"}},
        {"type": "input_audio", "input_audio": {"data": "{url}", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "{url}"}},
        {"type": "file", "file": {"file_id": "{url}"}},
    ],
)
@pytest.mark.parametrize("scheme", ["http", "file", "ftp"])
def test_media_are_refused_and_not_fetched(
    server: RunningServer, outside: int, part: dict[str, Any], scheme: str
) -> None:
    url = f"{scheme}://127.0.0.1:{outside}/x"
    filled = {
        key: {name: text.format(url=url) for name, text in value.items()} if isinstance(value, dict) else value
        for key, value in part.items()
    }
    response = server.post({"messages": [{"role": "user", "content": [filled]}]})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith("messages.0.content")


def test_names_are_names(server: RunningServer, outside: int) -> None:
    for name in (f"http://127.0.0.1:{outside}/x", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\x00"):
        response = server.post({"model": name, "messages": [user("ok")]})
        assert (response.status_code, response.json()["error"]["param"]) == (404, "model")
        assert "root:" not in response.text


def test_a_bomb_is_not_inflated(server: RunningServer) -> None:
    bomb = gzip.compress(b'{"messages":[' + b" " * 5_000_000 + b"]}")
    for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "x-gzip"):
        response = server.post(bomb, headers={"content-encoding": coding})
        assert (response.status_code, response.json()["error"]["type"]) == (400, "BadRequestError")
    assert server.post(bomb).status_code == 400  # not JSON
