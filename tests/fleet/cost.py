"""What shares the cores with a fleet's steps, in CPU time by process: ``python -m tests.fleet.cost REPLICAS USERS``.

CPU time and not wall time: a busy machine stretches the one far less than the other. The load is that of ``bench http``
with conversations of four turns, once with short answers and once with long ones, which tells a request's cost from a
token's; what a fleet does while nobody asks is taken off. Prints a table, and the options that ``bench simulate`` takes
of it. Then the same for one server.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fleet.on_ray import MODEL, PYTHON, descendants, plain_environment, running_fleet, title, until_ready
from tests.paths import MODELS, ROOT

SHORT, LONG, REQUESTS, TURNS, PROMPT = 4, 48, 24, 4, 48
_IDLE_S = 5.0
_TICKS_MS = 1000 / os.sysconf("SC_CLK_TCK")
_ROLES = {
    "ray::ProxyActor": "proxy",
    "ray::ServeReplica:powertrain:front": "front",
    "ray::ServeReplica:powertrain:engine": "engine",
    " --port 18499 ": "engine",  # the lone server's command line
}
STEPS = "steps"
"""The role of the thread that runs an engine's steps: what ``bench engine`` measures as well."""


def cpu_ms(root: int) -> dict[str, float]:
    """CPU time so far of a process and its descendants, by role; what has no other is ``rest``."""
    found: dict[str, float] = {}
    for pid in {root, *descendants(root)}:
        role = next((name for start, name in _ROLES.items() if start in title(pid)), "rest")
        spent = _threads_ms(pid)
        if role == "engine" and spent:  # the thread of the steps has the most: 1 thread of arithmetic, so no other has
            found[STEPS] = found.get(STEPS, 0.0) + spent.pop()
        found[role] = found.get(role, 0.0) + sum(spent)
    return found


def _threads_ms(pid: int) -> list[float]:
    """CPU time of each thread of a process that lives, the smallest first. Of threads that ended, nothing."""
    spent = []
    for file in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            fields = file.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        spent.append((int(fields[11]) + int(fields[12])) * _TICKS_MS)
    return sorted(spent)


def client_ms(url: str, users: int, requests: int, tokens: int) -> float:
    """Ask ``requests`` in conversations, and give the CPU time that the client took, its start too."""
    command = [
        sys.executable, "powertrain.py", "bench", "http", f"{url}/v1", "--model", MODEL, "-c", str(users),
        "--prompt-tokens", str(PROMPT), "--output-tokens", str(tokens), "--turns", str(TURNS), "--ignore-eos",
        "--no-server-metrics",
        "--request-count", str(requests), "--tokenizer", str(MODELS / MODEL), "--json",
    ]  # fmt: skip
    before = os.times()
    subprocess.run(command, cwd=ROOT, env=plain_environment(), stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return 1e3 * (after.children_user - before.children_user + after.children_system - before.children_system)


def costs(url: str, root: int, users: int) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """CPU ms by role of a request and of a token, and of each second while nobody asks."""

    def spent(requests: int, tokens: int) -> dict[str, float]:
        before, begin_s = cpu_ms(root), time.monotonic()
        client = client_ms(url, users, requests, tokens)
        after, passed_s = cpu_ms(root), time.monotonic() - begin_s
        roles = {role: value - before.get(role, 0.0) - idle.get(role, 0.0) * passed_s for role, value in after.items()}
        return {**roles, "client": client}

    idle: dict[str, float] = {}
    spent(TURNS, LONG)  # warm
    before = cpu_ms(root)
    time.sleep(_IDLE_S)
    idle = {role: (value - before.get(role, 0.0)) / _IDLE_S for role, value in cpu_ms(root).items()}
    start = spent(TURNS, SHORT)["client"]  # what a client costs by itself
    short, long = spent(REQUESTS, SHORT), spent(REQUESTS, LONG)
    found = {}
    for role in sorted(long):
        per_token = (long[role] - short.get(role, 0.0)) / REQUESTS / (LONG - SHORT)
        of_requests = (
            (short[role] - start) / (REQUESTS - TURNS) if role == "client" else short.get(role, 0.0) / REQUESTS
        )
        found[role] = of_requests - SHORT * per_token, per_token
    return found, idle


def table(name: str, url: str, root: int, users: int) -> None:
    """Print what was found, and what of it ``bench simulate`` is to be told."""
    found, idle = costs(url, root, users)
    print(f"{name}, {users} users: CPU ms        a request    a token   a second idle")
    for role, (request, token) in found.items():
        print(f"  {role:30} {request:9.2f} {token:10.3f} {idle.get(role, 0.0):10.1f}")
    shared = [value for role, value in found.items() if role != STEPS]
    print(
        f"  beside the steps: --cpu-ms-per-request {sum(request for request, _ in shared):.1f} "
        f"--cpu-ms-per-token {sum(token for _, token in shared):.2f} --cpu-idle-share {sum(idle.values()) / 1e3:.3f}",
        flush=True,
    )


def main() -> None:
    replicas, users = (*map(int, sys.argv[1:]), *(2, 2)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory() as folder, running_fleet(Path(folder), replicas=replicas) as fleet:
        table(f"fleet of {replicas}", fleet.url, fleet.process.pid, users)
    command = [
        "powertrain.py", "serve", str(MODELS / MODEL), "--port", "18499", "--threads", "1", "--backend", "cpu",
        "--num-slots", "16", "--max-model-len", "1024",
    ]  # fmt: skip
    server = subprocess.Popen([str(PYTHON), *command], cwd=ROOT, env=plain_environment(), stderr=subprocess.DEVNULL)
    try:
        until_ready("http://127.0.0.1:18499")
        table("one server", "http://127.0.0.1:18499", server.pid, users)
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
