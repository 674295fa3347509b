"""Logins to a registry: whose they are, where they go, and where they never do."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from export.errors import TransferError
from export.ship.credentials import Credentials
from export.ship.registry_login import answer_challenge
from tests.export.ship.packages import contents, pull, push
from tests.export.ship.strict_registry import IDENTITY, USER, StrictRegistry, where


def login(folder: Path, registry: StrictRegistry, password: str) -> Path:
    config = folder / "config.json"
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config.write_text(json.dumps({"auths": {registry.address: {"auth": auth}}, "psFormat": "x"}))
    return config


@pytest.mark.parametrize("basic", [False, True])
def test_a_login_of_docker_opens_a_registry_and_goes_nowhere_else(
    registry: StrictRegistry, root: Path, home: Path, tmp_path: Path, *, basic: bool
) -> None:
    registry.password, registry.basic = "geheim-7", basic
    config = login(tmp_path, registry, "geheim-7")
    registry.elsewhere = True
    push(root, where(registry), config)
    pulled = pull(where(registry), home, config=config)
    assert contents(pulled.root) == contents(root)
    assert registry.count("GET elsewhere") == 3
    assert registry.logins_elsewhere == []
    assert registry.tokens_given == (0 if basic else 2)


@pytest.mark.parametrize("basic", [False, True])
def test_a_wrong_login_is_told_without_it(registry: StrictRegistry, root: Path, tmp_path: Path, *, basic: bool) -> None:
    registry.password, registry.basic = "geheim-7", basic
    with pytest.raises(TransferError, match="wants a login; run 'docker login") as refused:
        push(root, where(registry), tmp_path / "none.json")
    with pytest.raises(TransferError, match="docker login") as denied:
        push(root, where(registry), login(tmp_path, registry, "falsch-8"))
    assert "falsch" not in str(denied.value) + str(refused.value)
    assert "geheim" not in repr(Credentials("someone", "geheim-7", "geheim-8"))


def test_an_identity_token_stands_for_a_password(registry: StrictRegistry, root: Path, tmp_path: Path) -> None:
    registry.password = "geheim-7"
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {registry.address: {"auth": "", "identitytoken": IDENTITY}}}))
    assert push(root, where(registry), config).sent_bytes


@pytest.mark.parametrize(
    "realm", ["http://registry.example/token", "file:///etc/x", "https://a@b/token", "/token", "https://[b/token"]
)
def test_no_login_goes_to_a_place_that_is_not_safe(
    registry: StrictRegistry, root: Path, tmp_path: Path, realm: str
) -> None:
    registry.password, registry.realm = "geheim-7", realm
    with pytest.raises(TransferError, match="asks for a login at a place that is no"):
        push(root, where(registry), login(tmp_path, registry, "geheim-7"))


@pytest.mark.parametrize("status", [307, 202])
def test_nothing_is_asked_or_sent_without_tls_where_a_registry_leads(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    asked: list[str] = []

    def answer(_transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.scheme}://{request.url.host}")
        found = 404 if request.method == "HEAD" else status
        return httpx.Response(found, headers={"Location": "http://other.example/x"}, request=request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with pytest.raises(TransferError, match=r"leads to 'other\.example' without TLS"):
        pull("oci://registry.example/x", home) if status == 307 else push(root, "oci://registry.example/x")
    assert asked[-1] == ("GET" if status == 307 else "POST") + " https://registry.example"
    for place in ("127.0.0.1:5000", "localhost"):  # nor is what answers inside this machine asked for a stranger
        local = httpx.Response(307, headers={"Location": f"http://{place}/x"})
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda *_, local=local: local)
        with pytest.raises(TransferError, match="without TLS"):
            pull("oci://registry.example/x", home)


def test_an_upload_to_what_is_no_address_ends_in_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        return httpx.Response(
            404 if request.method == "HEAD" else 202, headers={"Location": "http://[x/"}, request=request
        )

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", answer)
    with pytest.raises(TransferError, match="without TLS"):
        push(root, "oci://registry.example/x")


def test_a_token_without_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def blocks() -> Iterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b"[" * 2**16

    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=blocks())))
    with pytest.raises(TransferError, match="gave no token"):
        answer_challenge(client, "r.example", 'Bearer realm="https://r.example/t"', "s", lambda: None, plain_http=False)
    assert len(read) == 5  # 256 KiB, and the block that is too much


def test_a_credential_helper_is_asked(
    registry: StrictRegistry, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.password = "geheim-7"
    helper = tmp_path / "docker-credential-box"
    helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\": \\"someone\\", \\"Secret\\": \\"geheim-7\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"credHelpers": {registry.address: "box"}}))
    push(root, where(registry), config)
    config.write_text(json.dumps({"credsStore": "../evil"}))
    with pytest.raises(TransferError, match="no program's name"):
        push(root, where(registry), config)
