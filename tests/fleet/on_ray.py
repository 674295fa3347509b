"""A fleet as a process of another Python, which has ray: started, asked over HTTP, looked at from outside, ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from tests.paths import MODELS, ROOT

PYTHON = os.environ.get("POWERTRAIN_RAY_PYTHON")
MODEL = "smollm2-135m-instruct"
START_S = 240
SECOND = "second-package"


@dataclass
class Fleet:
    """A running fleet. ``log`` is what it has written so far."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def client(self, **more: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", max_retries=0, timeout=60, **{"api_key": "none", **more})  # type: ignore[arg-type]

    def ask(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", max_retries=0, timeout=60, api_key="none")

    def engines(self) -> set[int]:
        """Process ids of the engines' replicas, of this fleet alone: they are children of its raylet."""
        mine = descendants(self.process.pid)
        return {pid for pid in mine if title(pid).startswith("ray::ServeReplica:powertrain:engine")}

    def addresses(self) -> set[str]:
        """Local addresses that the fleet's processes listen on."""
        inodes = set()
        for pid in (*descendants(self.process.pid), self.process.pid):
            for file in Path(f"/proc/{pid}/fd").glob("*"):
                try:
                    inodes.add(str(file.readlink()))
                except OSError:
                    continue
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    found.add(fields[1].partition(":")[0])
        return found


@contextmanager
def running_fleet(folder: Path, *flags: str, replicas: int = 2) -> Iterator[Fleet]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log_file = folder / "fleet.log"
    command = [
        str(PYTHON), "powertrain.py", "serve", str(MODELS / MODEL), str(second_package(folder)),
        "--replicas", str(replicas), "--port", str(port),
        "--backend", "cpu", "--threads", "1", "--num-slots", "4", "--max-model-len", "1024",
        *flags,
    ]  # fmt: skip
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=plain_environment(), stdout=log, stderr=log)
    fleet = Fleet(process, port, log_file)
    try:
        wait_for(fleet, f"from {replicas} replicas")
        yield fleet
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(90)
        finally:
            process.kill()
    assert status == 0, "SIGTERM lets a fleet end by itself"


def plain_environment() -> dict[str, str]:
    """This process's, without settings of ours: a name that is no setting ends a server's start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POWERTRAIN_")}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def until_ready(url: str, trust: ssl.SSLContext | None = None) -> None:
    """Return when a server answers; a server that never does ends with the last error."""
    transport = httpx.HTTPTransport(retries=12, verify=trust or True)  # with pauses that grow
    with httpx.Client(transport=transport, timeout=60) as client:
        for _ in range(2000):
            if client.get(f"{url}/v1/health/ready").status_code == 200:
                return
    raise AssertionError(f"{url} never became ready")


def second_package(folder: Path) -> Path:
    """The default package again, under another name."""
    copy = folder / SECOND
    shutil.copytree(MODELS / MODEL, copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": SECOND, "served_names": [SECOND]}))
    return copy


def wait_for(fleet: Fleet, text: str) -> None:
    """Until the log holds ``text``; a fleet that ended fails with what it wrote."""
    waited = 0.0
    while text not in fleet.log:
        try:
            fleet.process.wait(0.2)
        except subprocess.TimeoutExpired:
            waited += 0.2
            assert waited < START_S, fleet.log[-4000:]
            continue
        raise AssertionError(fleet.log[-4000:])


def metrics(fleet: Fleet) -> str:
    return httpx.get(f"{fleet.url}/v1/metrics", timeout=10).text


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def descendants(root: int) -> set[int]:
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = status.read_text(encoding="utf-8", errors="replace").split(" ", 1)
        except OSError:
            continue
        parents.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(pid))
    found: set[int] = set()
    new = [root]
    while new:
        new = [child for pid in new for child in parents.get(pid, ())]
        found.update(new)
    return found
