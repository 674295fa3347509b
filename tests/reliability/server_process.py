"""The scripted server in a process of its own, which can be stopped, killed, starved and measured from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.paths import ROOT

_PROGRAM = """
import collections, resource, signal, sys, threading, time
from tests.api.scripted_server import running_server
{before}
with running_server({settings}) as server:
    server.session.calls = collections.deque(maxlen=100)  # the fake remembers every call, which would look like a leak
    server.session.before_call = lambda call: time.sleep({step_s})
    signal.signal(signal.SIGTERM, server.server.handle_exit)
    print(server.port, flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.server.handle_exit(15, None)), daemon=True).start()
    while not server.server.should_exit:
        time.sleep(0.01)
"""


@dataclass
class ServerProcess:
    """A running process and what the system says of it."""

    process: subprocess.Popen[str]
    base_url: str

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    def resident_bytes(self) -> int:
        fields = self._proc("statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def num_threads(self) -> int:
        return len(list(self._proc("task").iterdir()))

    def num_handles(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def gauge(self, name: str) -> float:
        """The sum of a metric's samples."""
        page = httpx.get(f"{self.base_url}/v1/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + "{"))

    def _proc(self, name: str) -> Path:
        return Path("/proc") / str(self.process.pid) / name


@contextlib.contextmanager
def server_process(*, step_s: float = 0.0, settings: str = "", before: str = "") -> Iterator[ServerProcess]:
    """Serve until the block ends. ``settings`` are arguments of ``running_server``, ``before`` runs first, as text."""
    program = _PROGRAM.format(step_s=step_s, settings=settings, before=before)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield ServerProcess(process, f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.communicate()
