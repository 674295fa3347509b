"""Try every client against one real server of the default model: ``python -m tests.clients.run [SCRIPT ...]``.

Each client runs its script in an environment of its own. Without SCRIPT all do, and the table in ``docs/clients.md``
is written anew. Ends with 1 if anything did not pass.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.clients.catalogue import CLIENTS, Client
from tests.clients.environment import FOLDER, NotInstallable, command
from tests.clients.results import Note, Outcome, read_notes, table, write_document
from tests.conftest import DEFAULT_MODEL
from tests.paths import ROOT

READY_TIMEOUT_S = 180
SCRIPT_TIMEOUT_S = 900


@contextlib.contextmanager
def served() -> Iterator[tuple[str, str]]:
    """A server process on a free port of the loopback, as its base URL and the model's name; ended with the block."""
    line = [sys.executable, "powertrain.py", "serve", DEFAULT_MODEL, "--port", "0"]
    FOLDER.mkdir(exist_ok=True)
    log = FOLDER / "server.log"
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(line, cwd=ROOT, stderr=file) as process:
        try:
            yield _address(process, log)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    """Wait until the log tells where the server is, and the server that it is ready."""
    client = httpx.Client(transport=httpx.HTTPTransport(retries=10))  # it is told of before it listens
    last = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < last and process.poll() is None:
        told = re.search(r"^Serving (\S+) at (http://\S+)/v1", log.read_text(encoding="utf-8"), re.MULTILINE)
        if told and client.get(f"{told[2]}/v1/health/ready").status_code == httpx.codes.OK:
            return told[2], told[1]
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready after {READY_TIMEOUT_S} s, or ended; see {log.relative_to(ROOT)}")


def attempt(client: Client, base_url: str, model: str) -> Outcome:
    """Run one client's script. That it ends early, or makes no check, is a failure too."""
    try:
        line = command(client.environment, client.script)
    except NotInstallable as reason:
        return Outcome(client, (), f"not installable here ({reason})")
    print(f"Trying {client.title} {client.version()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.jsonl"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
        ended = subprocess.run(
            [*line, base_url, model, str(file)],
            cwd=ROOT,
            env=environment,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SCRIPT_TIMEOUT_S,
        )
        notes = read_notes(file)
    if ended.returncode or not notes:
        notes = (*notes, Note("plain", "script", f"ended with {ended.returncode}: {ended.stdout[-1000:]}"))
    return Outcome(client, notes)


def node_version() -> str:
    """Node's version, or that there is none."""
    if shutil.which("node") is None:
        return "none"
    return subprocess.run(["node", "--version"], text=True, stdout=subprocess.PIPE, check=True).stdout.strip(" v\n")


def main(names: list[str]) -> int:
    """Try the named scripts, or all."""
    unknown = set(names) - {client.script for client in CLIENTS}
    if unknown:
        raise SystemExit(f"no such script: {', '.join(sorted(unknown))}; there are {[c.script for c in CLIENTS]}")
    chosen = [client for client in CLIENTS if not names or client.script in names]
    with served() as (base_url, model):
        outcomes = [attempt(client, base_url, model) for client in chosen]
    print(table(outcomes))
    for outcome in outcomes:
        for note in outcome.failures:
            print(f"{outcome.client.title}, {note.column} {note.what}: {note.failure}\n")
    if not names:
        day = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        write_document(outcomes, day=day, python=platform.python_version(), node=node_version())
    return int(any(outcome.failures or outcome.not_run for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
