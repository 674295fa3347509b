"""What install.sh makes, in an empty environment, and the server in it as a container runtime would run it.

A container engine is not needed: as_container.sh makes the root, for which it must be root on Linux.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.package.manifest import Package
from tests.deploy.dockerfile import stages
from tests.paths import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

KEY = "a-secret-of-the-test"
# What a container of the CPU image takes on disk, but for Python and the package. 261 MiB at the time of writing.
MOST_MEBIBYTES = 320
BUILD_TOOLS = {"pip", "setuptools", "hatchling", "editables", "pathspec", "pluggy", "trove_classifiers", "wheel"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/powertrain of the CPU image, under another name. Copied sources, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("image")
    source, target, home = folder / "src", folder / "prefix", folder / "home"
    ignored = shutil.ignore_patterns("__pycache__", ".cache", "smollm2-135m-instruct")
    for name in ("api", "bench", "export", "models", "requirements", "runtime", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("powertrain.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    home.mkdir()
    index = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
    words = ["env", "-i", "PATH=/usr/bin:/bin", f"HOME={home}", *index, "sh", "deploy/images/install.sh", "cpu"]
    python = str(Path(sys.base_prefix, "bin", "python3"))
    done = subprocess.run([*words, str(target), python], cwd=source, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    for path in [folder.parent.parent, folder.parent, folder]:
        path.chmod(0o755)  # the user of the container goes through them
    return target


def packages(prefix: Path) -> Path:
    (found,) = prefix.glob("lib/python3.*/site-packages")
    return found


def test_the_prefix_holds_what_serving_needs_and_no_more(prefix: Path) -> None:
    assert {path.name for path in prefix.iterdir()} <= {"bin", "include", "lib", "lib64", "pyvenv.cfg", "share"}
    commands = {path.name for path in (prefix / "bin").iterdir()}
    assert {name for name in commands if not name.startswith("python")} == {"powertrain"}
    site = packages(prefix)
    names = {re.split(r"-\d", path.name)[0] for path in site.iterdir()}
    assert names & BUILD_TOOLS == set()
    assert {"api", "bench", "export", "runtime", "powertrain.py", "powertrain", "onnxruntime", "litestar"} <= names
    assert {"tests", "docs", "deploy", "requirements", "models"} & names == set()
    assert [path for path in site.rglob("tests") if path.is_dir()] == []
    assert list(site.glob("powertrain-*.dist-info/licenses/LICENSE")) != []
    files = [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if path.stat().st_mode & 0o022] == []
    assert sum(path.stat().st_size for path in files) < MOST_MEBIBYTES * 2**20
    uncompiled = [
        path for path in (site / "api").rglob("*.py") if not list(path.parent.glob(f"__pycache__/{path.stem}.*"))
    ]
    assert uncompiled == []


def in_container(prefix: Path, models: Path, root: Path, *words: str) -> subprocess.Popen[str]:
    root.mkdir(exist_ok=True)
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    script = ["sh", str(Path(__file__).with_name("as_container.sh"))]
    where = [str(root), str(prefix), str(models), sys.base_prefix]
    return subprocess.Popen([*namespaces, *script, *where, *words], stderr=subprocess.PIPE, text=True)


def image_environment(prefix: Path) -> list[str]:
    base = stages(ROOT / "deploy/images/cpu.Dockerfile")[1]["base"]
    given = base.pairs("ENV") | {"PATH": f"{prefix}/bin:/usr/bin"}
    return [f"{name}={value}" for name, value in given.items()]


def entrypoint(prefix: Path) -> list[str]:
    (start,) = stages(ROOT / "deploy/images/cpu.Dockerfile")[1]["base"].all("ENTRYPOINT")
    assert start.words
    return [f"{prefix}/bin/{start.words[0]}", *start.words[1:]]


def child_of(process: subprocess.Popen[str]) -> int:
    """The process that is number 1 inside; unshare waits for it."""
    while True:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
        if children:
            return int(children[0])


@contextlib.contextmanager
def container(prefix: Path, models: Path, root: Path, *environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    if os.geteuid() != 0:
        pytest.skip("only root can make a container's root")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    words = [*image_environment(prefix), f"NIM_SERVER_PORT={port}", f"POWERTRAIN_API_KEY={KEY}", *environ]
    process = in_container(prefix, models, root, *words, *entrypoint(prefix), "--max-model-len", "256")
    with process:
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def health(prefix: Path, url: str) -> int:
    """The health check's exit status, with the environment that the server has."""
    environ = {"NIM_SERVER_PORT": url.rpartition(":")[2], "PATH": "/usr/bin"}
    command = [str(prefix / "bin" / "python"), "-m", "powertrain", "probe"]
    return subprocess.run(command, env=environ, cwd="/", check=False, capture_output=True).returncode


def test_a_server_without_rights_in_a_read_only_root(default_package: Package, prefix: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(default_package.root, models / "package")
    for path in (tmp_path, tmp_path.parent):
        path.chmod(0o755)
    before = sorted(path.name for path in models.rglob("*"))
    nim = ("NGC_API_KEY=x", "NIM_TENSOR_PARALLEL_SIZE=1", "NIM_LOG_LEVEL=DEFAULT", "NIM_JSONL_LOGGING=1")
    with container(prefix, models, tmp_path / "root", *nim) as (process, url):
        while health(prefix, url) != 0:
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.2)
        inside = child_of(process)
        status = Path(f"/proc/{inside}/status").read_text("utf-8")
        assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
        assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 60, "stream": True}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            assert client.post(
                "/v1/chat/completions", json=body | {"response_format": {"type": "json_object"}}
            ).is_success
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = answer.iter_lines()
                assert next(lines).startswith("data: ")
                os.kill(inside, signal.SIGTERM)
                rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        log = process.stderr.read()
    assert log.count("these variables have no effect here: NGC_API_KEY, NIM_TENSOR_PARALLEL_SIZE") == 1
    assert "Read-only file system" not in log
    assert "Traceback" not in log
    assert sorted(path.name for path in models.rglob("*")) == before


def test_a_package_is_built_by_what_the_image_holds(prefix: Path, tmp_path: Path) -> None:
    from tests.export.tiny_models import write_tiny_folder

    checkpoint = write_tiny_folder(tmp_path / "tiny", "llama")
    command = [str(prefix / "bin" / "powertrain"), "export", "-o", str(tmp_path / "package"), "--", str(checkpoint)]
    environ = {"PATH": "/usr/bin", "HOME": str(tmp_path / "home"), "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, env=environ, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "package" / "manifest.json").is_file()
    assert not (tmp_path / "home").exists()
