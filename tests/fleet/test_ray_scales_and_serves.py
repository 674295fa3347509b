"""A fleet behind TLS that grows under load and shrinks after it, and Ray's own ``serve run``: runs where test_on_ray
does.

Nothing sleeps: each turn of a loop that waits asks the fleet something over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.api.edge.test_tls import make
from tests.fleet.on_ray import MODEL, PYTHON, START_S, Fleet, plain_environment, running_fleet, until_ready, wait_for
from tests.paths import MODELS, ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(PYTHON is None, reason="POWERTRAIN_RAY_PYTHON is not set; 'make test-ray' sets it"),
    pytest.mark.timeout(600),
]
CHANGE_S = 120
"""The longest that a replica may take to come or to go."""


def test_a_fleet_behind_tls_grows_under_load_and_shrinks_after_it(tmp_path: Path) -> None:
    cert, key = make(tmp_path, "fleet")
    trust = ssl.create_default_context(cafile=str(cert))
    flags = ["--tls-cert", os.path.relpath(cert, ROOT), "--tls-key", str(key)]
    flags += ["--max-replicas", "2", "--scale-up-delay-s", "1", "--scale-down-delay-s", "2"]
    flags += ["--max-predicted-wait-s", "60"]  # nobody is refused meanwhile
    with running_fleet(tmp_path, *flags, replicas=1) as fleet:
        url = f"https://127.0.0.1:{fleet.port}"
        until_ready(url, trust)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v1/health/live")  # nobody has signed it but itself
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{fleet.url}/v1/health/live")
        assert len(fleet.engines()) == 1
        answered = asyncio.run(crowd_until(fleet, url, trust, users=6, replicas=2))
        assert answered >= 1
        first = fleet.engines()
        assert len(first) == 2
        assert asyncio.run(crowd_until(fleet, url, trust, users=1, replicas=1)) >= 1
        for _ in range(2000):
            if len(fleet.engines()) == 1:
                break
            httpx.get(f"{url}/v1/health/ready", verify=trust)
        assert fleet.engines() < first
        fleet.process.send_signal(signal.SIGHUP)
        wait_for(fleet, "the certificate is still that of the start")


async def crowd_until(fleet: Fleet, url: str, trust: ssl.SSLContext, users: int, replicas: int) -> int:
    """Ask without pause until so many replicas answer; how many answers there were. No request may fail."""
    answers, done = 0, asyncio.Event()
    trusting = openai.DefaultAsyncHttpxClient(verify=trust, timeout=60)
    async with (
        httpx.AsyncClient(verify=trust, timeout=60) as http,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=trusting) as client,
        asyncio.timeout(CHANGE_S),
    ):

        async def ask_on(number: int) -> None:
            nonlocal answers
            while not done.is_set():
                await client.chat.completions.create(
                    model=MODEL,
                    messages=[{"role": "user", "content": f"{number}, {answers}: tell a story."}],
                    max_tokens=60,
                    extra_body={"ignore_eos": True},
                )
                answers += 1

        async def watch() -> None:
            while not done.is_set():
                page = (await http.get(f"{url}/v1/metrics")).text
                lines = [line for line in page.splitlines() if line.startswith("num_requests_running{")]
                if len(lines) == replicas:
                    done.set()

        await asyncio.gather(watch(), *(ask_on(number) for number in range(users)))
    return answers


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@contextmanager
def cluster(port: int) -> Iterator[dict[str, str]]:
    """Ray as an operator starts it, with Serve's proxy on a port of loopback: the environment that finds it."""
    programs = Path(str(PYTHON)).parent
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # paths of sockets must be short
    gcs, clients = free_ports(2)
    head = {**plain_environment(), "RAY_USAGE_STATS_ENABLED": "0"}
    # Who is told an address is not asked for the cluster's token by itself.
    environment = {**head, "RAY_ADDRESS": f"127.0.0.1:{gcs}", "RAY_AUTH_MODE": "token"}
    command = [
        str(programs / "ray"), "start", "--head", "--block", "--port", str(gcs), "--ray-client-server-port",
        str(clients), "--include-dashboard", "false", "--num-cpus", "2", "--temp-dir", folder,
        "--object-store-memory", str(128 * 2**20),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        assert any(b"Ray runtime started" in line for line in process.stdout)
        start = [str(programs / "serve"), "start", "--http-port", str(port)]
        subprocess.run(start, check=True, cwd=ROOT, env=environment, capture_output=True, timeout=120)
        yield environment
    finally:
        process.terminate()
        process.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_rays_own_command_serves_a_fleet() -> None:
    (port,) = free_ports(1)
    with cluster(port) as environment:
        serve = Path(str(PYTHON)).parent / "serve"
        command = [
            str(serve), "run", "powertrain_ray:app", f"model={MODELS / MODEL}", "replicas=2", "threads=1",
            "num_slots=4", "max_model_len=1024",
        ]  # fmt: skip
        refused = subprocess.run(
            [*command, "tls_cert=a.pem", "tls_key=b.pem"],
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert refused.returncode != 0
        assert "the proxy is Ray's here" in refused.stderr + refused.stdout
        # It returns when every replica is ready, and leaves them running.
        subprocess.run(
            [*command, "--non-blocking"], check=True, cwd=ROOT, env=environment, capture_output=True, timeout=START_S
        )
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Count to five."}], max_tokens=8, stream=True
        )
        assert len(list(stream)) >= 8
        page = httpx.get(f"{url}/v1/metrics").text
        assert page.count("\nnum_requests_running{") == 2
