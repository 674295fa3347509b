"""Packages go to a registry and come back, over cut lines, through logins, and never half."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import powertrain
from export.errors import ExportError, TransferError
from export.ship.artifact import ARTIFACT_TYPE, artifact_of
from export.ship.credentials import Credentials
from export.ship.pull import find_pulled
from export.ship.reference import parse_reference
from export.ship.registry_login import answer_challenge
from runtime.errors import PackageError
from runtime.package.manifest import load_package
from tests.export.ship.packages import contents, pull, push, some_package
from tests.export.ship.strict_registry import IDENTITY, USER, StrictRegistry, running_registry


@pytest.fixture
def registry() -> Iterator[StrictRegistry]:
    with running_registry() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return some_package(tmp_path / "tiny")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def where(registry: StrictRegistry, rest: str = ":1") -> str:
    return f"oci://{registry.address}/team/tiny{rest}"


def graph_digest(root: Path) -> str:
    return f"sha256:{hashlib.sha256((root / 'ort/model.onnx').read_bytes()).hexdigest()}"


def test_what_is_pushed_comes_back_byte_for_byte(registry: StrictRegistry, root: Path, home: Path) -> None:
    pushed = push(root, where(registry))
    manifest = json.loads(registry.manifests["1"])
    assert manifest["artifactType"] == ARTIFACT_TYPE
    titles = {layer["annotations"]["org.opencontainers.image.title"]: layer for layer in manifest["layers"]}
    assert set(titles) == {"manifest.json", "ort/model.onnx", "tokenizer.json"}
    assert titles["ort/model.onnx"]["digest"] == graph_digest(root)
    assert titles["ort/model.onnx"]["size"] == 2048
    assert str(pushed.pinned) == f"oci://{registry.address}/team/tiny@{artifact_of(load_package(root)).digest}"
    assert pushed.sent_bytes == sum(len(data) for data in contents(root).values())
    pulled = pull(where(registry), home)
    assert pulled.root == home / f"tiny-{artifact_of(load_package(root)).digest[7:19]}"
    assert contents(pulled.root) == contents(root)
    assert sorted(path.name for path in home.iterdir()) == [pulled.root.name]
    assert (pulled.pinned, pulled.received_bytes) == (pushed.pinned, pushed.sent_bytes)


def test_what_is_there_is_neither_sent_nor_fetched_again(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    sent = registry.count("PUT /v2/team/tiny/blobs")
    assert push(root, where(registry, ":2")).sent_bytes == 0
    assert registry.count("PUT /v2/team/tiny/blobs") == sent
    first = pull(where(registry), home)
    fetched = registry.count("GET /v2/team/tiny/blobs")
    again = pull(where(registry, ":2"), home)
    assert (again.root, again.was_there) == (first.root, True)
    assert registry.count("GET /v2/team/tiny/blobs") == fetched
    other = some_package(root.parent / "other", b"another graph")
    assert push(other, where(registry, ":3")).known_bytes == 2
    third = pull(where(registry, ":3"), home)
    assert (third.known_bytes, contents(third.root)) == (2, contents(other))  # the tokenizer was here


def test_a_digest_names_one_package_and_needs_no_registry_once_pulled(
    registry: StrictRegistry, root: Path, home: Path
) -> None:
    pinned = push(root, where(registry)).pinned
    push(some_package(root.parent / "other", b"another graph"), where(registry))
    assert contents(pull(str(pinned), home).root) == contents(root)
    assert pull(where(registry), home).root != pull(str(pinned), home).root
    asked = len(registry.asked)
    found = find_pulled(pinned, home)
    assert found is not None
    assert contents(found) == contents(root)
    assert len(registry.asked) == asked
    (found / "trt").mkdir()
    (found / "trt/sm89.plan").write_bytes(b"a plan that was not there")
    assert find_pulled(pinned, home) is None
    assert find_pulled(parse_reference(where(registry)), home) is None


def test_a_registry_that_gives_another_manifest_for_a_digest_is_refused(
    registry: StrictRegistry, root: Path, home: Path
) -> None:
    pinned = push(root, where(registry)).pinned
    assert pinned.digest is not None
    push(some_package(root.parent / "other", b"another graph"), where(registry, ":2"))
    registry.manifests[pinned.digest] = registry.manifests["2"]
    with pytest.raises(TransferError, match="gave a manifest with the digest sha256:"):
        pull(str(pinned), home)
    assert list(home.iterdir()) == []


def test_a_broken_line_is_gone_on_with_where_it_ended(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    registry.cutting, registry.cut_after = graph_digest(root), [1000, 500, 100]
    pulled = pull(where(registry), home)
    assert registry.ranges == ["bytes=1000-", "bytes=1500-", "bytes=1600-"]
    assert contents(pulled.root) == contents(root)
    assert pulled.received_bytes == sum(len(data) for data in contents(root).values())


def test_a_pull_that_was_given_up_leaves_no_package_and_is_gone_on_with(
    registry: StrictRegistry, root: Path, home: Path
) -> None:
    push(root, where(registry))
    graph = graph_digest(root)
    data = registry.blobs.pop(graph)
    with pytest.raises(TransferError, match="has no blob sha256:"):
        pull(where(registry), home)
    registry.blobs[graph] = data
    registry.cutting, registry.cut_after = graph, [1500, 0, 0]
    (stranger,) = [path / "of-another-artifact" for path in home.glob(".*.pull")]
    stranger.touch()
    with pytest.raises(TransferError, match="tried 3 times; what came so far is kept"):
        pull(where(registry), home)
    assert not stranger.exists()
    assert not list(home.glob("*/manifest.json"))
    (work,) = home.glob(".*.pull")
    assert (work / graph[7:]).read_bytes() == data[:1500]
    registry.ranges = []
    pulled = pull(where(registry), home)
    assert registry.ranges == ["bytes=1500-"]
    assert contents(pulled.root) == contents(root)
    assert sorted(path.name for path in home.iterdir()) == [pulled.root.name]


def test_a_registry_without_ranges_sends_all_again(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    registry.cutting, registry.cut_after, registry.ignores_ranges = graph_digest(root), [1500], True
    assert contents(pull(where(registry), home).root) == contents(root)


def test_bytes_that_were_altered_are_never_a_package(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    registry.altered = {graph_digest(root)}
    with pytest.raises(TransferError, match="has another digest; it was removed"):
        pull(where(registry), home)
    registry.altered, registry.cutting, registry.cut_after = set(), graph_digest(root), [1500, 0, 0]
    with pytest.raises(TransferError):
        pull(where(registry), home)
    (work,) = home.glob(".*.pull")
    (work / graph_digest(root)[7:]).write_bytes(b"not what came" * 100)
    with pytest.raises(TransferError, match="another digest"):
        pull(where(registry), home)
    assert not list(home.glob("*/manifest.json"))
    assert contents(pull(where(registry), home).root) == contents(root)


def test_an_artifact_whose_files_are_no_package_is_refused(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    before = json.loads(registry.manifests["1"])

    def refused(match: str, change: str, **values: object) -> None:
        manifest = json.loads(json.dumps(before))
        if change == "layer":
            manifest["layers"][1] |= values
        else:
            manifest |= values
        registry.manifests["1"] = json.dumps(manifest).encode()
        with pytest.raises((TransferError, PackageError), match=match):
            pull(where(registry), home)
        assert not list(home.glob("*/manifest.json"))

    title = "org.opencontainers.image.title"
    for name in ("../outside", "/etc/x", "a\\b", ""):
        refused("does not stay inside a package", "layer", annotations={title: name})
    refused("does not stay inside a package", "layer", annotations={title: "a/" * 500_000 + "b"})
    refused("twice", "layer", annotations={title: "manifest.json"})
    refused("below a file", "layer", annotations={title: "manifest.json/x"})
    refused("does not name 'stranger'|is missing", "layer", annotations={title: "stranger"})
    refused("no package but 'application/x'", "manifest", artifactType="application/x")
    refused("holds no manifest.json", "manifest", layers=[])
    refused("not readable", "manifest", layers=7)
    refused("longer than the 7 bytes", "layer", size=7)
    registry.manifests["1"] = b"{" * (4 * 2**20 + 1)
    with pytest.raises(TransferError, match="more than 4194304 bytes"):
        pull(where(registry), home)


def test_an_older_package_stands_until_the_new_one_is_whole(registry: StrictRegistry, root: Path, home: Path) -> None:
    other = some_package(root.parent / "other", b"another graph")
    push(root, where(registry))
    push(other, where(registry, ":2"))
    target = home / "served"
    pull(where(registry), home, target)
    graph = graph_digest(other)
    data = registry.blobs.pop(graph)
    with pytest.raises(TransferError):
        pull(where(registry, ":2"), home, target)
    assert contents(target) == contents(root)
    registry.blobs[graph] = data
    pull(where(registry, ":2"), home, target)
    assert contents(target) == contents(other)
    (home / "mine").mkdir()
    (home / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ExportError, match="holds other files than a package"):
        pull(where(registry), home, home / "mine")
    assert (home / "mine" / "letter.txt").read_text() == "dear"


def test_trouble_that_passes_is_waited_for_and_other_trouble_told(
    registry: StrictRegistry, root: Path, home: Path
) -> None:
    registry.failing = [503, 500]
    push(root, where(registry))
    registry.failing = [503, 503, 503]
    with pytest.raises(TransferError, match="answered with status 503; tried 3 times"):
        pull(where(registry), home)
    graph = graph_digest(root)
    registry.blobs[graph] = registry.blobs[graph][:100]
    with pytest.raises(TransferError, match=r"only 100 of 2,048 bytes of sha256:.* came; tried 3 times"):
        pull(where(registry), home)
    with pytest.raises(TransferError, match=r"has no team/tiny:none \(MANIFEST_UNKNOWN manifest unknown\)"):
        pull(where(registry, ":none"), home)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(TransferError, match="cannot be reached"):
            pull(f"oci://127.0.0.1:{closed.getsockname()[1]}/x", home)


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


def test_copies_of_one_blob_are_counted_before_they_fill_the_disk(
    registry: StrictRegistry, root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(root, where(registry))
    manifest = json.loads(registry.manifests["1"])
    title = "org.opencontainers.image.title"
    graph = next(layer for layer in manifest["layers"] if layer["annotations"][title] == "ort/model.onnx")
    manifest["layers"] += [{**graph, "annotations": {title: f"copy-{number}"}} for number in range(1000)]
    registry.manifests["1"] = json.dumps(manifest).encode()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(TransferError, match="2 MiB are needed in"):
        pull(where(registry), home)


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


def test_serving_a_reference_pulls_it_first(
    registry: StrictRegistry, root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = str(push(root, where(registry)).pinned)
    monkeypatch.setenv("POWERTRAIN_HOME", str(home))
    folder = powertrain._build(pinned)
    assert contents(folder) == contents(root)
    asked = len(registry.asked)
    assert powertrain._build(pinned) == folder
    assert len(registry.asked) == asked
    with pytest.raises(TransferError, match="names no artifact"):
        powertrain._build("oci://nothing")


def test_two_pulls_of_one_package_do_not_meet(registry: StrictRegistry, root: Path, home: Path) -> None:
    push(root, where(registry))
    from export.folder_lock import exclusive

    name = f"tiny-{artifact_of(load_package(root)).digest[7:19]}"
    with (
        exclusive(home / f".{name}.pull.lock", "pulling"),
        pytest.raises(ExportError, match="another powertrain is pulling tiny"),
    ):
        pull(where(registry), home)


def test_a_real_registry_agrees(root: Path, home: Path, tmp_path: Path) -> None:
    """Docker's registry, Debian's package ``docker-registry``."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed (apt-get install docker-registry)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'data'}}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    rest = threading.Thread(target=deque, args=(process.stderr, 0))
    try:
        assert any(b"listening on" in line for line in process.stderr)
        rest.start()
        pushed = push(root, f"oci://{address}/team/tiny:1")
        assert push(root, f"oci://{address}/team/tiny:2").sent_bytes == 0
        other = some_package(root.parent / "other", b"another graph")
        assert push(other, f"oci://{address}/team/tiny:3").known_bytes == 2
        assert contents(pull(str(pushed.pinned), home).root) == contents(root)
        resumed = home / f".served.pull/{graph_digest(root)[7:]}"
        resumed.parent.mkdir()
        resumed.write_bytes((root / "ort/model.onnx").read_bytes()[:1000])
        shutil.rmtree(pull(str(pushed.pinned), home).root)
        assert pull(str(pushed.pinned), home, home / "served").received_bytes == pushed.sent_bytes - 1000
        assert contents(home / "served") == contents(root)
    finally:
        process.terminate()
        process.wait()
        rest.join()
        process.stderr.close()
