"""The same artifacts in folders and object stores, as OCI image layouts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from fsspec.core import url_to_fs

from export.errors import TransferError
from export.ship import store as store_module
from export.ship.artifact import artifact_of
from export.ship.reference import is_reference, parse_reference
from runtime.package.manifest import SIGNATURE_FILE, load_package, read_manifest, write_manifest
from tests.export.ship.packages import contents, pull, push, some_package


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/shelf"


def test_packages_share_blobs_and_keep_their_digests(store: str, tmp_path: Path) -> None:
    root, other = some_package(tmp_path / "tiny"), some_package(tmp_path / "other", b"another graph")
    first = push(root, f"{store}:1")
    assert str(first.pinned) == f"{store}@{artifact_of(load_package(root)).digest}"
    assert push(root, f"{store}:2").sent_bytes == 0
    assert push(other, store).known_bytes == 2
    home = tmp_path / "home"
    assert contents(pull(f"{store}:2", home).root) == contents(root)
    assert contents(pull(store, home).root) == contents(other)
    push(other, f"{store}:2")
    assert contents(pull(f"{store}:2", home).root) == contents(other)
    assert contents(pull(str(first.pinned), home).root) == contents(root)
    with pytest.raises(TransferError, match="has no tag 'none'; its tags: 1, 2, latest"):
        pull(f"{store}:none", home)
    with pytest.raises(TransferError, match="has no manifest sha256:000"):
        pull(f"{store}@sha256:{'0' * 64}", home)


def test_a_folder_is_an_image_layout_and_holds_no_half_files(tmp_path: Path) -> None:
    root, shelf = some_package(tmp_path / "tiny"), tmp_path / "shelf"
    push(root, f"file://{shelf}:1")
    assert json.loads((shelf / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((shelf / "index.json").read_text())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "1"}
    assert entry["digest"] == artifact_of(load_package(root)).digest
    assert len(list((shelf / "blobs/sha256").iterdir())) == 4  # manifests, the graph, and {} for tokenizer and config
    assert not list(shelf.rglob("*.partial"))
    graph = shelf / "blobs/sha256" / load_package(root).manifest.files["ort/model.onnx"].sha256
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])  # what a kill left: it has another size, so it is sent again
    push(root, f"file://{shelf}:2")
    push(root, f"file://{shelf}:2")
    assert graph.read_bytes() == whole
    entries = json.loads((shelf / "index.json").read_text())["manifests"]
    assert [one["annotations"]["org.opencontainers.image.ref.name"] for one in entries] == ["1", "2"]
    graph.write_bytes(bytes(len(whole)))
    with pytest.raises(TransferError, match="has another digest"):
        pull(f"file://{shelf}:1", tmp_path / "home")


def test_an_index_is_read_and_written_within_a_limit(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(some_package(tmp_path / "tiny"), f"{store}:1")
    files, shelf = url_to_fs(store)
    index = files.cat_file(f"{shelf}/index.json")
    monkeypatch.setattr(store_module, "_MAX_INDEX_BYTES", len(index))
    assert pull(f"{store}:1", tmp_path / "home").received_bytes
    with pytest.raises(TransferError, match="has no place for another tag"):
        push(tmp_path / "tiny", f"{store}:2")
    assert files.cat_file(f"{shelf}/index.json") == index
    monkeypatch.setattr(store_module, "_MAX_INDEX_BYTES", len(index) - 1)
    for act in (lambda: pull(f"{store}:1", tmp_path / "other"), lambda: push(tmp_path / "tiny", f"{store}:2")):
        with pytest.raises(TransferError, match=rf"index\.json is larger than {len(index) - 1} bytes"):
            act()


def test_a_manifest_is_read_within_a_limit_whatever_size_the_store_says(tmp_path: Path) -> None:
    root, shelf = some_package(tmp_path / "tiny"), tmp_path / "shelf"
    push(root, f"file://{shelf}:1")
    manifest = shelf / "blobs/sha256" / artifact_of(load_package(root)).digest.removeprefix("sha256:")
    manifest.write_bytes(manifest.read_bytes() + b" " * 2**22)
    with pytest.raises(TransferError, match="a manifest is larger than 4194304 bytes"):
        pull(f"file://{shelf}:1", tmp_path / "home")


def test_a_pull_from_a_store_goes_on_where_it_ended(store: str, tmp_path: Path) -> None:
    root, home = some_package(tmp_path / "tiny"), tmp_path / "home"
    pushed = push(root, store)
    begun = home / ".served.pull" / next(name for name, data in by_digest(root).items() if len(data) == 2048)
    begun.parent.mkdir(parents=True)
    begun.write_bytes((root / "ort/model.onnx").read_bytes()[:2000])
    (begun.parent / "of-another-artifact").write_bytes(b"x")
    assert pull(store, home, home / "served").received_bytes == pushed.sent_bytes - 2000
    assert contents(home / "served") == contents(root)


def test_a_pull_that_was_killed_at_its_end_fetches_nothing_again(tmp_path: Path) -> None:
    root, home = some_package(tmp_path / "tiny"), tmp_path / "home"
    push(root, f"file://{tmp_path}/shelf")
    laid_out = home / ".served.pull/package/ort/model.onnx"
    laid_out.parent.mkdir(parents=True)
    laid_out.write_bytes((root / "ort/model.onnx").read_bytes())
    pulled = pull(f"file://{tmp_path}/shelf", home, home / "served")
    assert pulled.received_bytes == sum(len(data) for data in contents(root).values()) - 2048
    assert contents(pulled.root) == contents(root)


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Whatever this process writes for the time being: the nearest to a full disk that needs no privilege."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_store_that_takes_no_more_is_told_at_once_and_keeps_no_half_blob(tmp_path: Path) -> None:
    """Nothing that waiting would change: a push is not tried again."""
    root, shelf = some_package(tmp_path / "tiny"), tmp_path / "shelf"
    words = r"^file://.*/shelf: File too large; raise the limit on the size of files \(ulimit -f\)$"
    with files_of_at_most(1000), pytest.raises(TransferError, match=words):
        push(root, f"file://{shelf}:1")
    assert not list(shelf.rglob("*.partial"))
    assert not (shelf / "index.json").exists()
    push(root, f"file://{shelf}:1")
    assert contents(pull(f"file://{shelf}:1", tmp_path / "home").root) == contents(root)


def test_a_disk_that_takes_no_more_is_not_taken_for_the_store_s_failure(store: str, tmp_path: Path) -> None:
    root, home = some_package(tmp_path / "tiny"), tmp_path / "home"
    push(root, store)
    words = r"^cannot write in .*/home/\.served\.pull: File too large; raise .*; what came so far is kept$"
    with files_of_at_most(1000), pytest.raises(TransferError, match=words):
        pull(store, home, home / "served")
    assert not (home / "served").exists()
    assert max(path.stat().st_size for path in (home / ".served.pull").iterdir()) == 1000
    pulled = pull(store, home, home / "served")
    assert pulled.received_bytes < sum(len(data) for data in contents(root).values())  # it went on
    assert contents(pulled.root) == contents(root)


def test_a_pull_without_the_space_leaves_nothing(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, home = some_package(tmp_path / "tiny"), tmp_path / "home"
    push(root, store)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1024))
    with pytest.raises(TransferError, match=r"^[2-9] KiB are needed in .*/home and 1 KiB are free; free some space or"):
        pull(store, home, home / "served")
    assert list(home.iterdir()) == []


def test_plans_and_signatures_travel_and_kernels_stay(tmp_path: Path) -> None:
    root = some_package(tmp_path / "tiny")
    (root / "trt").mkdir()
    added = {f"trt/sm89.plan{suffix}" for suffix in ("", ".json", ".intoto.json", ".cdx.json")} | {SIGNATURE_FILE}
    for name in (*added, "trt/sm89.plan.kernels"):
        (root / name).write_text(name)
    push(root, f"file://{tmp_path}/shelf")
    there = contents(root)
    del there["trt/sm89.plan.kernels"]
    assert contents(pull(f"file://{tmp_path}/shelf", tmp_path / "home").root) == there


def test_two_files_of_the_same_bytes_are_one_blob(tmp_path: Path) -> None:
    root = some_package(tmp_path / "tiny")
    (root / "copy.json").write_bytes((root / "tokenizer.json").read_bytes())
    manifest = read_manifest(root)
    files = {**manifest.files, "copy.json": manifest.files["tokenizer.json"]}
    write_manifest(root, msgspec.structs.replace(manifest, files=files))
    pushed = push(root, f"file://{tmp_path}/shelf")
    pulled = pull(f"file://{tmp_path}/shelf", tmp_path / "home")
    assert contents(pulled.root) == contents(root)
    assert pulled.received_bytes == pushed.sent_bytes == sum(len(data) for data in contents(root).values()) - 2


def by_digest(root: Path) -> dict[str, bytes]:
    files = load_package(root).manifest.files
    return {info.sha256: (root / name).read_bytes() for name, info in files.items()}


def test_a_store_without_its_library_names_the_line_that_installs_it(tmp_path: Path) -> None:
    if importlib.util.find_spec("s3fs") is not None:
        pytest.skip("s3fs is installed")
    with pytest.raises(TransferError, match=r"s3:// needs a library that is not installed: .*s3fs"):
        pull("s3://bucket/x:1", tmp_path)


DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("oci://ghcr.io/a/b:1.0", ("ghcr.io", "a/b", "1.0", None)),
        ("oci://localhost:5000/b", ("localhost:5000", "b", "latest", None)),
        (f"oci://[::1]:5000/b@{DIGEST}", ("[::1]:5000", "b", None, DIGEST)),
        (f"oci://r.example/b:x@{DIGEST}", ("r.example", "b", "x", DIGEST)),
        ("s3://bucket/a/b:1", ("s3://bucket/a/b", "", "1", None)),
        ("file:///srv/models/", ("file:///srv/models", "", "latest", None)),
    ],
)
def test_references_are_read(word: str, parts: tuple[str | None, ...]) -> None:
    found = parse_reference(word)
    assert (found.place, found.name, found.tag, found.digest) == parts
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    ("word", "match"),
    [
        ("oci://host", "names no artifact"),
        ("oci://host/UPPER", "lower case"),
        ("oci://host/../x", "lower case"),
        ("oci://host/x:", "is no tag"),
        ("oci://host/x@sha256:short", "64 hex digits"),
        ("oci://me:secret@host/x", "holds no user and no password"),
        ("models/x", "names no artifact"),
        ("ftp://host/x", "ftp:// is no place"),
    ],
)
def test_what_is_no_reference_is_told(word: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=match) as refused:
        pull(word, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_model_of_the_hub_is_no_reference() -> None:
    assert not any(map(is_reference, ("owner/name", "hf://owner/name", "models/x", "oci://")))
    assert all(map(is_reference, ("oci://x", "s3://x", "file:///x")))
