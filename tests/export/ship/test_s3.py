"""The same in S3, of moto's server on loopback. Skipped where either is missing: they need environments of their own.

python -m venv MOTO && MOTO/bin/pip install 'moto[s3,server]'
.venv/bin/pip install s3fs && PATH=$PWD/MOTO/bin:$PATH .venv/bin/python -m pytest tests/export/ship/test_s3.py
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from export.ship.artifact import Descriptor, artifact_of
from runtime.package.manifest import load_package
from tests.export.ship.packages import contents, pull, push, some_package

pytest.importorskip("s3fs", reason="the extra store is not installed")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    program = shutil.which("moto_server")
    if program is None:
        pytest.skip("moto_server is not on the PATH")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "geheim-9", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    words = [program, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        assert any(b"Running on" in line for line in process.stderr)
        assert httpx.put(f"http://127.0.0.1:{port}/bucket").status_code == 200
        yield "s3://bucket/models/tiny"
    finally:
        process.terminate()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def test_packages_go_to_s3_and_come_back(bucket: str, tmp_path: Path) -> None:
    root, other = some_package(tmp_path / "tiny"), some_package(tmp_path / "other", b"another graph")
    pushed = push(root, f"{bucket}:1")
    assert push(root, f"{bucket}:2").sent_bytes == 0
    assert push(other, f"{bucket}:3").known_bytes == 2
    home = tmp_path / "home"
    assert contents(pull(f"{bucket}:3", home).root) == contents(other)
    graph = next(info.digest for name, info in artifact_files(root).items() if name == "ort/model.onnx")
    begun = home / ".served.pull" / graph.removeprefix("sha256:")
    begun.parent.mkdir()
    begun.write_bytes((root / "ort/model.onnx").read_bytes()[:2000])
    resumed = pull(str(pushed.pinned), home, home / "served")
    assert contents(resumed.root) == contents(root)
    assert resumed.received_bytes == pushed.sent_bytes - 2000 - 2  # the tokenizer was here


def artifact_files(root: Path) -> dict[str, Descriptor]:
    return artifact_of(load_package(root)).files
