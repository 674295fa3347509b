"""What front and proxy cost, in CPU time by process, beside one server: ``python -m tests.fleet.cost``.

CPU time and not wall time: a busy machine stretches the one far less than the other. Two loads tell a request's cost
from a token's: short answers and long ones.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import openai

from tests.fleet.on_ray import MODEL, PYTHON, Fleet, descendants, plain_environment, running_fleet, title, until_ready
from tests.paths import MODELS, ROOT

SHORT, LONG, REQUESTS = 1, 51, 10
_TICKS_MS = 1000 / os.sysconf("SC_CLK_TCK")
_ROLES = {
    "ray::ProxyActor": "proxy",
    "ray::ServeReplica:powertrain:front": "front",
    "ray::ServeReplica:powertrain:engine": "engines",
}


def cpu_ms(pids: set[int]) -> dict[str, float]:
    """CPU time so far by role; what is no role of a fleet is ``rest``."""
    found: dict[str, float] = {}
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        role = next((name for start, name in _ROLES.items() if title(pid).startswith(start)), "rest")
        found[role] = found.get(role, 0.0) + (int(fields[11]) + int(fields[12])) * _TICKS_MS
    return found


def spent(url: str, pids: Callable[[], set[int]], tokens: int) -> dict[str, float]:
    """CPU ms per request with an answer of ``tokens``, by role."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300)
    before = cpu_ms(pids())
    for number in range(REQUESTS):
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"{number}: tell a long story."}],
            max_tokens=tokens,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for _ in stream:
            pass
    after = cpu_ms(pids())
    return {role: (value - before.get(role, 0.0)) / REQUESTS for role, value in after.items()}


def table(name: str, url: str, pids: Callable[[], set[int]]) -> None:
    spent(url, pids, LONG)  # warm
    short, long = spent(url, pids, SHORT), spent(url, pids, LONG)
    for role in sorted(long):
        per_token = (long[role] - short.get(role, 0.0)) / (LONG - SHORT)
        per_request = short.get(role, 0.0) - SHORT * per_token
        print(f"{name:8} {role:8} {per_request:8.2f} ms a request {per_token:8.3f} ms a token", flush=True)


def of_fleet(fleet: Fleet) -> set[int]:
    return descendants(fleet.process.pid) | {fleet.process.pid}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_fleet(Path(folder)) as fleet:
        table("fleet", fleet.url, lambda: of_fleet(fleet))
    command = [
        "powertrain.py", "serve", str(MODELS / MODEL), "--port", "18499", "--threads", "1", "--backend", "cpu",
        "--num-slots", "4", "--max-model-len", "1024",
    ]  # fmt: skip
    server = subprocess.Popen([str(PYTHON), *command], cwd=ROOT, env=plain_environment(), stderr=subprocess.DEVNULL)
    try:
        until_ready("http://127.0.0.1:18499")
        table("server", "http://127.0.0.1:18499", lambda: {server.pid})
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
