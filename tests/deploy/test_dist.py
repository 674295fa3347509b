"""What make dist makes: the wheel holds everything, and serves from an environment where nothing else was installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

from requirements import make_dist
from requirements.vendored import vendored
from runtime.package.manifest import Package
from tests.paths import ROOT

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SECONDS = "1800000000"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_dist.make_archives(tmp_path_factory.mktemp("dist"), SECONDS)


def tracked() -> list[str]:
    return [name for name in make_dist.run(["git", "ls-files", "-z"]).split("\0") if name]


def test_the_wheel_holds_every_file_of_its_folders(archives: tuple[Path, Path]) -> None:
    _, wheel = archives
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {info.date_time for info in archive.infolist()} == {time.gmtime(int(SECONDS))[:6]}
    folders = {*PROJECT["tool"]["mypy"]["files"], "models"} - {"tests", "requirements"}
    ours = [name for name in tracked() if name.split("/")[0] in folders and not name.endswith("/ruff.toml")]
    assert len(ours) > 500
    assert [name for name in ours if re.sub("^models/", "export/recipes/", name) not in names] == []
    strangers = {name for name in names if not name.startswith(("export/recipes/", "powertrain-"))} - set(ours)
    assert strangers == set()
    licences = {name for name in tracked() if name == "LICENSE" or re.fullmatch(r"api/pages/.*LICENSE.*\.txt", name)}
    info = f"powertrain-{PROJECT['project']['version']}.dist-info/licenses"
    assert {f"{info}/{name}" for name in licences} <= names
    assert len(licences) > 2


def test_the_sdist_holds_what_a_reader_looks_for(archives: tuple[Path, Path]) -> None:
    sdist, _ = archives
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "powertrain.py"} <= names
    assert not any(name.startswith(("tests/", ".venv", "models/smollm2-135m-instruct/")) for name in names)


def test_the_wheel_alone_serves(archives: tuple[Path, Path], default_package: Package, tmp_path: Path) -> None:
    ours = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(ours)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(ours / "bin/python")]
    make_dist.run([*pip, "install", "--quiet", "--no-compile", f"{archives[1]}[cpu]"], tmp_path)
    command = str(ours / "bin" / "powertrain")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "POWERTRAIN_HOME": str(default_package.root.parent)}

    def said(*words: str) -> str:
        done = subprocess.run([command, *words], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "--api-key" in said("serve", "--help")
    assert "cpu" in said("doctor")
    words = [command, "serve", default_package.root.name, "--port", "0", "--num-slots", "1", "--max-model-len", "128"]
    with subprocess.Popen(words, cwd=tmp_path, env=environ, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        base = next(found.group(1) for line in lines if (found := re.search(r"(http://\S+)/v1", line)))
        assert any("ready after" in line for line in lines)
        page = httpx.get(f"{base}/docs")
        assert page.status_code == 200
        assert httpx.get(f"{base}/v1/version").json()["release"] == PROJECT["project"]["version"]
        asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        answer = httpx.post(f"{base}/v1/chat/completions", json=asked, timeout=60)
        assert answer.json()["usage"]["completion_tokens"] > 0
        server.send_signal(signal.SIGTERM)
        server.stderr.read()
    assert server.returncode == 0


def test_the_sbom_has_what_the_wheel_needs() -> None:
    """Of the last make dist, if there was one: it takes a minute, and a tool in an environment of its own."""
    found = sorted((ROOT / "dist").glob("*.cdx.json"))
    if not found:
        pytest.skip("make dist was not run")
    sbom = json.loads(found[0].read_text("utf-8"))
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.6")
    about = sbom["metadata"]["component"]
    assert (about["name"], about["version"]) == ("powertrain", PROJECT["project"]["version"])
    names = {re.sub("[-_.]+", "-", part["name"]).lower() for part in sbom["components"]}
    needed = {re.match("[a-z0-9-]+", word).group() for word in PROJECT["project"]["dependencies"]}  # type: ignore[union-attr]
    scripts = {str(part["name"]) for part in vendored(ROOT / "api")}
    assert needed | scripts | {"onnxruntime"} <= names
    assert not names & {"hatchling", "pytest", "pip"}
