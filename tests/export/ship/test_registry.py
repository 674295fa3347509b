"""Packages go to a registry and come back, over cut lines, and never half."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import subprocess
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest

import powertrain
from export.errors import ExportError, TransferError
from export.ship.artifact import ARTIFACT_TYPE, artifact_of
from export.ship.pull import find_pulled
from export.ship.reference import parse_reference
from runtime.errors import PackageError
from runtime.package.manifest import load_package
from tests.export.ship.packages import contents, pull, push, some_package
from tests.export.ship.strict_registry import StrictRegistry, where


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
    with pytest.raises(TransferError, match=r"2,[0-9]{3} KiB are needed in"):
        pull(where(registry), home)


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
