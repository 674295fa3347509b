"""The Dockerfiles' promises, read from their text, and hadolint's opinion where it is installed."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from api.settings import resolve_settings
from tests.deploy.dockerfile import IMAGES, Stage, stages
from tests.paths import ROOT

FOLDER = ROOT / "deploy" / "images"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def of(image: str) -> tuple[dict[str, str], dict[str, Stage]]:
    return stages(FOLDER / f"{image}.Dockerfile")


@pytest.mark.parametrize("image", IMAGES)
def test_bases_are_pinned_and_nothing_is_fetched_past_the_locks(image: str) -> None:
    arguments, found = of(image)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", arguments["PYTHON_IMAGE"])
    assert {stage.base for stage in found.values()} <= {"${PYTHON_IMAGE}", "build", "base"}
    assert found["build"].base == found["base"].base == "${PYTHON_IMAGE}"
    for stage in found.values():
        assert stage.all("ADD") == []
        for run in stage.all("RUN"):
            assert not re.search(r"\b(curl|wget|apt|apt-get|pip|git)\b", run.text), run
    script = (FOLDER / "install.sh").read_text("utf-8")
    assert re.findall(r"^.*pip install.*$", script, re.MULTILINE) == [
        '    "$ours" -m pip install --quiet --no-compile --no-deps --require-hashes -r "requirements/$lock.txt"',
        '"$ours" -m pip install --quiet --no-compile --no-deps "$wheels"/powertrain-*.whl',
    ]
    for name in re.findall(r'locks="([a-z -]+)"', script):
        for lock in name.split():
            assert "--hash=sha256:" in (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")


@pytest.mark.parametrize("image", IMAGES)
def test_the_last_stage_is_a_bare_server(image: str) -> None:
    _, found = of(image)
    assert list(found)[-1] == "server"
    assert found["server"] == Stage("server", "base", ())
    assert found["baked"].base == "base"
    base = found["base"]
    assert base.all("RUN") == []
    copied = [item.text for item in base.all("COPY")]
    assert copied == ["--from=build /opt/powertrain /opt/powertrain", "LICENSE /licenses/powertrain"]
    assert [item.text for item in base.all("USER")] == ["10001:10001"]
    assert found["baked"].all("USER") == []
    assert [item.text for item in base.all("STOPSIGNAL")] == ["SIGTERM"]
    (start,) = base.all("ENTRYPOINT")
    assert start.words == ["powertrain", "serve"]  # no shell, so the signal reaches the server
    (health,) = base.all("HEALTHCHECK")
    assert health.text.endswith(' CMD ["powertrain", "probe"]')
    assert base.all("CMD") == []


@pytest.mark.parametrize("image", IMAGES)
def test_labels_and_settings(image: str) -> None:
    _, found = of(image)
    base = found["base"]
    labels = base.pairs("LABEL")
    assert labels["org.opencontainers.image.version"] == "${VERSION}"
    assert f"VERSION={PROJECT['version']}" in {item.text for item in base.all("ARG")}
    assert labels["org.opencontainers.image.licenses"].split(" AND ")[0] == PROJECT["license"]
    environ = base.pairs("ENV")
    assert environ["ORT_DISABLE_TELEMETRY"] == environ["PYTHONDONTWRITEBYTECODE"] == "1"
    given = {name: value.replace("${BACKEND}", "tensorrt-rtx") for name, value in environ.items()}
    resolved = resolve_settings({"api_key": ("k",)}, environ=given)
    assert resolved.settings.host == "0.0.0.0"
    assert resolved.unused_nim_names == ()
    assert resolved.settings.backend == ("tensorrt-rtx" if image == "gpu" else "auto")


def kept(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore leaves ``path`` in the context: the last rule that matches it or a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    keep = True
    for rule in rules:
        pattern = rule.removeprefix("!")
        tails = [part for name in above for part in (name, name.rpartition("/")[2] if "**/" in pattern else name)]
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in tails):
            keep = rule.startswith("!")
    return keep


def test_the_context_holds_what_the_build_reads_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [f"{name}/x.py" for name in wheel["only-include"] if (ROOT / name).is_dir() and name != "models"]
    needed += ["powertrain.py", "models/a.toml", "pyproject.toml", "README.md", "LICENSE", "requirements/cpu.txt"]
    needed += ["requirements/install_pip.py", "deploy/images/install.sh", "api/pages/rapidoc/LICENSE.txt"]
    assert [path for path in needed if not kept(path, rules)] == []
    left = [".git/config", ".venv/bin/python", "models/a/manifest.json", "models/.cache/x", "tests/a.py", "docs/a.md"]
    left += ["deploy/compose/key", "api/__pycache__/a.pyc", "api/edge/__pycache__/a.cpython-311.pyc"]
    assert [path for path in left if kept(path, rules)] == []


def test_an_unknown_backend_is_one_line(tmp_path: Path) -> None:
    command = ["sh", str(FOLDER / "install.sh"), "rocm", str(tmp_path / "prefix")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr == "usage: sh deploy/images/install.sh cpu|cuda|tensorrt|tensorrt-rtx PREFIX [PYTHON]; not rocm\n"
    )
    assert not (tmp_path / "prefix").exists()


def test_hadolint_has_nothing_to_say() -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
    if found is None:
        pytest.skip("hadolint is not installed: make test-deploy installs it")
    command = [found, "--no-color", *(str(FOLDER / f"{image}.Dockerfile") for image in IMAGES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)
