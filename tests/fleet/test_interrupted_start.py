"""A signal while a fleet starts, with Ray's real processes: it ends, says so, and leaves none of them."""

from __future__ import annotations

import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.fleet.on_ray import MODEL, PYTHON, START_S, descendants, plain_environment, title
from tests.paths import MODELS, ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(PYTHON is None, reason="POWERTRAIN_RAY_PYTHON is not set; 'make test-ray' sets it"),
    pytest.mark.timeout(300),
]
END_S = 60


def marked(mark: str) -> set[str]:
    """Titles of all processes that have ``mark`` in their environment, whoever their parent is by now."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            has_mark = mark.encode() in file.read_bytes()
        except OSError:
            continue
        if has_mark:
            found.add(title(int(file.parent.name)))
    return found


@pytest.mark.parametrize(("number", "begun"), [(signal.SIGINT, "raylet"), (signal.SIGTERM, "ray::ServeController")])
def test_a_start_that_is_interrupted_ends_whole(tmp_path: Path, number: int, begun: str) -> None:
    mark = uuid.uuid4().hex
    command = [
        str(PYTHON), "powertrain.py", "serve", str(MODELS / MODEL), "--replicas", "1", "--port", "0",
        "--backend", "cpu", "--threads", "1", "--num-slots", "2", "--max-model-len", "512",
    ]  # fmt: skip
    environment = {**plain_environment(), "STARTED_BY": mark}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(int(START_S / 0.1)):
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                if any(begun in title(pid) for pid in descendants(process.pid)):
                    break
            else:
                pytest.fail((tmp_path / "log").read_text(encoding="utf-8"))
        process.send_signal(number)
        assert process.wait(END_S) == 0, (tmp_path / "log").read_text(encoding="utf-8")
    finally:
        process.kill()
    assert marked(mark) == set()
    told = (tmp_path / "log").read_text(encoding="utf-8")
    assert "ended by a signal" in told
    assert "Serving" not in told
