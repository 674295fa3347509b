"""``powertrain serve`` as a process: starts, answers, drains on a signal, and fails in one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from runtime.package.manifest import Package
from tests.paths import ROOT

pytestmark = pytest.mark.model


def start(*arguments: str, **more: str) -> subprocess.Popen[str]:
    ours = ("NIM_", "POWERTRAIN_", "ORT_DISABLE_TELEMETRY")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more
    command = [sys.executable, "-m", "powertrain", "serve", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)


def test_serve_until_a_signal(default_package: Package, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret")
    words = ["--port", "0", "--max-model-len", "256", "--log-format", "json", "--api-key-file", str(keys)]
    (tmp_path / "home").mkdir()
    # A CI variable would switch ONNX Runtime's telemetry off as well.
    process = start(str(default_package.root), *words, HOME=str(tmp_path / "home"), XDG_CACHE_HOME="", CI="")
    with process:
        assert process.stderr is not None
        head = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", head)):
            line = process.stderr.readline()
            assert line, head
            if not head:
                process.send_signal(signal.SIGHUP)  # whoever renewed a key does not ask how far the start is
            head += line
        base_url = f"http://127.0.0.1:{found[1]}"
        while '"ready after' not in (line := process.stderr.readline()):
            assert line
        with httpx.Client(base_url=base_url, timeout=30, headers={"Authorization": "Bearer secret"}) as client:
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
            assert client.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"] == 3

        second = start(str(default_package.root), "--port", found[1])
        _, text = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "Address already in use" in " ".join(text.split())
        assert "Traceback" not in text

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        rest = process.stderr.read()
    assert list((tmp_path / "home").iterdir()) == []  # no library keeps anything in the user's home
    assert '"completion_tokens":3' in rest
    assert "Traceback" not in rest


def test_no_room_for_one_sequence_is_one_line(default_package: Package) -> None:
    process = start(str(default_package.root), "--port", "0", "--kv-cache-bytes", "1000")
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in text
    assert "bytes" in text.lower()
