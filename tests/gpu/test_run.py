"""How the acceptance on a GPU is started and judged, with doubles of the driver's tool and of every interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.acceptance_table import Check, Row, is_passed, read_report, table
from tests.gpu.environments import BACKENDS, merged_locks
from tests.gpu.run import main
from tests.paths import ROOT

INTERPRETER = """#!/bin/sh
# An interpreter that writes down how it was called, and answers as the files beside it say.
root=$(cat "{root}/here")
echo "$1 $2 $3 $4" | head -1 >> "$root/calls"
case "$1 $2" in
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip")
    for last; do :; done
    test -f "$last" && cp "$last" "$root/lock"
    echo "$@" >> "$root/pip"
    test ! -f "$root/pip_fails" || { cat "$root/pip_fails" >&2; exit 1; } ;;
"-P -m") test "$PYTHONPATH" = "$root" && cat "$root/$4.probe" ;;
"-m pytest")
    for word; do case "$word" in --gpu-report=*) report=${word#--gpu-report=} ;; esac; done
    echo "$@" > "$root/pytest"
    test ! -f "$root/report" || cp "$root/report" "$report"
    exit $(cat "$root/status") ;;
-c*) case "$2" in *open_libraries*) cat "$root/$3.libraries" ;; *) cat "$root/absent" ;; esac ;;
esac
"""
FINE = '{"version":"1.0","problem":"","fix":""}'
ADA, HOPPER = "NVIDIA GeForce RTX 4090, 8.9", "NVIDIA H100 80GB HBM3, 9.0"


class Bench:
    """A folder as it is unpacked, an interpreter, and a machine with a GPU; every file of it can be changed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = folder, monkeypatch
        self.python = self._script("python", INTERPRETER.replace("{root}", str(folder)))
        self.write("here", str(folder))
        self.write("absent", "[]\n")
        self.write("status", "0")
        self.write("pyproject.toml", '[project]\ndependencies = ["msgspec>=0.20", "uvloop>=1; os_name == \'posix\'"]\n')
        for backend in BACKENDS:
            self.write(f"{backend.module}.probe", FINE)
            self.write(f"{backend.module}.libraries", "")
            for lock in backend.locks:
                self.write(f"requirements/{lock}", f"{lock[:-4]}-wheel==1 \\\n    --hash=sha256:00\n")
        self.report({"one": "passed"})
        self.card(ADA)

    def _script(self, name: str, text: str) -> str:
        path = self.write(f"bin/{name}", text)
        path.chmod(0o755)
        return str(path)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def card(self, line: str | None, status: int = 0) -> None:
        """What the driver's tool says; None: there is no driver."""
        (self.root / "bin" / "nvidia-smi").unlink(missing_ok=True)
        if line is not None:
            self._script("nvidia-smi", f"#!/bin/sh\necho '{line}'\nexit {status}\n")
        self._patch.setenv("PATH", f"{self.root}/bin:/usr/bin:/bin")

    def report(self, outcomes: dict[str, str] | None, **other: Any) -> None:
        """What the acceptance reports; None: nothing."""
        (self.root / "report").unlink(missing_ok=True)
        if outcomes is not None:
            checks = [{"name": name, "outcome": one, "seconds": 1.0, "detail": ""} for name, one in outcomes.items()]
            said = {"backend": "cuda", "gpu": "RTX 4090", "checks": checks, "tokens_per_s": 812.44} | other
            self.write("report", json.dumps(said))

    def run(self, *arguments: str) -> int:
        return main(arguments, python=self.python, root=self.root)

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (None, 0, "no NVIDIA driver: nvidia-smi is not on the PATH"),
        ("NVIDIA-SMI has failed", 9, "nvidia-smi failed: NVIDIA-SMI has failed"),
        ("", 0, "no NVIDIA GPU: the driver shows none"),
    ],
)
def test_without_a_gpu_it_says_so_before_it_downloads(
    bench: Bench, capsys: pytest.CaptureFixture[str], line: str | None, status: int, said: str
) -> None:
    bench.card(line, status)
    for options in ([], ["--here"], ["--wheels", "w"]):
        assert bench.run(*options) == 1
        assert capsys.readouterr() == ("", f"test-gpu: {said}\n")
    assert bench.calls == []


def test_one_environment_for_each_backend_and_one_table(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("--gpu-soak-seconds=5") == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("making")] == [
        "making .venv-gpu",
        "making .venv-tensorrt",
        "making .venv-tensorrt-rtx",
    ]
    assert said.endswith(
        "backend       GPU       checks  passed  failed  skipped  tokens/s\n"
        "cuda          RTX 4090       1       1       0        0     812.4\n"
        "tensorrt      RTX 4090       1       1       0        0     812.4\n"
        "tensorrt-rtx  RTX 4090       1       1       0        0     812.4\n"
        "\n"
        "accepted: 3 checks ran on a GPU, 3 passed, 0 failed\n"
    )
    ran = (bench.root / "pytest").read_text()
    assert " tests/gpu/test_gpu_acceptance.py --gpu-backend=tensorrt-rtx --gpu-report=/" in ran
    assert ran.endswith(" --gpu-soak-seconds=5\n")
    pip = (bench.root / "pip").read_text().splitlines()
    assert all("--require-hashes" in line and "--no-deps" in line for line in pip[::2])
    assert all(line.endswith(f"--no-build-isolation --editable {bench.root}") for line in pip[1::2])
    bench.write("pip_fails", "ERROR: nothing is installed twice\n\nhint: See above for details.\n")
    assert bench.run() == 0  # the environments are there
    bench.write("requirements/tensorrt.txt", "tensorrt-wheel==2\n")
    assert bench.run() == 1  # and one of them is out of date
    assert "tensorrt FAILED: -m pip failed: ERROR: nothing is installed twice\n" in capsys.readouterr().out


def test_wheels_of_a_folder_are_taken_without_a_network(bench: Bench) -> None:
    assert bench.run("--wheels", "/media/wheels", "--backend", "tensorrt") == 0
    pip = (bench.root / "pip").read_text().splitlines()[0]
    assert "--no-deps --no-index --find-links /media/wheels -r " in pip
    assert "--require-hashes" not in pip  # a wheel that was built of a source archive has another
    assert not (bench.root / ".venv-gpu").exists()


def test_wheels_are_collected_where_there_is_no_gpu(bench: Bench) -> None:
    bench.card(None)
    assert bench.run("--collect", "/media/wheels") == 0
    pip = (bench.root / "pip").read_text().splitlines()
    assert len(pip) == len(BACKENDS)
    assert all("wheel --no-deps --require-hashes -r" in line and line.endswith("-w /media/wheels") for line in pip)


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda bench: bench.report({}), "cuda FAILED: no check ran"),
        (lambda bench: bench.report({"a": "skipped"}), "cuda FAILED: no check ran"),
        (lambda bench: bench.report({"a": "passed"}, gpu=""), "cuda FAILED: no check ran: it saw no GPU"),
        (lambda bench: bench.report({"a": "passed", "b": "failed"}), "cuda b FAILED: no reason given"),
        (lambda bench: bench.report({"a": "passed", "b": "error"}), "cuda b FAILED: no reason given"),
        (lambda bench: bench.report(None), "cuda FAILED: it ended with status 0 and left no report"),
        (lambda bench: bench.write("report", "{"), "cuda FAILED: it ended with status 0 and left no report"),
        (lambda bench: bench.write("status", "3"), "cuda FAILED: it ended with status 3 after its checks"),
        (
            lambda bench: bench.write("cuda.probe", '{"problem":"libcublas.so.13 is missing","fix":"pip it"}'),
            "cuda FAILED: libcublas.so.13 is missing; pip it",
        ),
        (lambda bench: bench.write("cuda.probe", ""), "cuda FAILED: "),
    ],
)
def test_what_is_not_a_pass_fails(
    bench: Bench, capsys: pytest.CaptureFixture[str], change: Callable[[Bench], None], remark: str
) -> None:
    change(bench)
    assert bench.run("--backend", "cuda") == 1
    said = capsys.readouterr().out
    assert f"\n{remark}" in said
    assert said.splitlines()[-1].startswith("NOT accepted: ")


def test_a_card_without_kernels_of_tensorrt_for_rtx_leaves_it_out(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.card(HOPPER)
    assert bench.run() == 0
    said = capsys.readouterr().out
    assert "tensorrt-rtx was left out: TensorRT for RTX has no kernels for compute capability 9.0\n" in said
    assert not (bench.root / ".venv-tensorrt-rtx").exists()
    assert bench.run("--backend", "tensorrt-rtx") == 1  # nothing was executed


def test_an_interpreter_is_used_as_it_is(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """From an unpacked folder without a network: what is there runs, what is missing is named with its wheel."""
    missing = "tensorrt (in tensorrt) is missing"
    bench.write("tensorrt.probe", json.dumps({"problem": missing, "fix": "pip install tensorrt"}))
    assert bench.run("--here") == 0
    said = capsys.readouterr().out
    assert f"tensorrt was left out: {missing}; pip install tensorrt\n" in said
    assert said.splitlines()[-1] == "accepted: 2 checks ran on a GPU, 2 passed, 0 failed"
    assert not any(call.startswith(("-m venv", "-m pip")) for call in bench.calls)
    for backend in BACKENDS:
        bench.write(f"{backend.module}.probe", json.dumps({"problem": "broken", "fix": "mend it"}))
    assert bench.run("--here") == 1


def test_an_interpreter_that_lacks_what_every_backend_needs(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.write("absent", '["msgspec", "pytest-timeout"]\n')
    bench.write("cuda.libraries", "libcurand.so.10 (in nvidia-curand) is missing\n")
    assert bench.run("--here") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"test-gpu: {bench.python} lacks msgspec>=0.20, pytest-timeout>=2.4",
        "cuda: libcurand.so.10 (in nvidia-curand) is missing",
        "install them there, or leave PYTHON out: then environments are made, with WHEELS=FOLDER from a folder",
    ]


def test_an_interpreter_that_is_none(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--here"], python="/no/python", root=bench.root) == 1
    assert capsys.readouterr().err == "test-gpu: /no/python cannot be run: No such file or directory\n"


def test_the_table_of_everything_at_once() -> None:
    checks = (
        Check("prefill", "passed"),
        Check("bf16", "skipped", "the card has none"),
        Check("soak", "failed", "late"),
    )
    rows = [
        Row("cuda", "NVIDIA H100 80GB HBM3", checks, 1234.56),
        Row("tensorrt", problem="no wheel"),
        Row("tensorrt-rtx", left_out="no kernels"),
    ]
    assert table(rows) == (
        "backend       GPU                    checks  passed  failed  skipped  tokens/s\n"
        "cuda          NVIDIA H100 80GB HBM3       2       1       1        1    1234.6\n"
        "tensorrt      -                           0       0       0        0         -\n"
        "tensorrt-rtx  -                           0       0       0        0         -\n"
        "\n"
        "cuda bf16 skipped: the card has none\n"
        "cuda soak FAILED: late\n"
        "tensorrt FAILED: no wheel\n"
        "tensorrt-rtx was left out: no kernels\n"
        "NOT accepted: 2 checks ran on a GPU, 1 passed, 1 failed"
    )
    assert not is_passed(rows)
    assert not is_passed([])
    assert table([Row("cuda", left_out="x")]).endswith("NOT accepted: no check ran on a GPU")
    assert read_report("cuda", Path("/no/report"), 2).problem == "it ended with status 2 and left no report"


def test_an_environment_gets_each_pin_once_and_one_onnx_runtime() -> None:
    for backend in BACKENDS:
        lock = merged_locks(ROOT / "requirements", backend)
        names = [line.split(" ")[0] for line in lock.splitlines() if "==" in line]
        wanted = "onnxruntime-gpu==" if backend.name == "cuda" else "onnxruntime=="
        assert [name for name in names if name.startswith("onnxruntime")] == [
            name for name in names if name.startswith(wanted)
        ]
        assert {"pytest", "msgspec", "cuda-bindings"} <= {name.partition("==")[0] for name in names}
        always = [line.split("==")[0] for line in lock.splitlines() if "==" in line and ";" not in line]
        assert len(always) == len(set(always))  # the lock files agree on every version
        bare = merged_locks(ROOT / "requirements", backend, hashes=False)
        assert "hash" not in bare
        assert len(bare.splitlines()) == len(names)


def test_it_starts_where_nothing_is_installed() -> None:
    """Without a single distribution (-S): from an unpacked folder on a bare machine."""
    command = [sys.executable, "-S", "-m", "tests.gpu.run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PATH": "/none"}, check=False)
    assert (done.returncode, done.stderr) == (1, "test-gpu: no NVIDIA driver: nvidia-smi is not on the PATH\n")


def test_make_hands_over_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)  # of the make that runs the tests
    for words, arguments in (
        ([], ""),
        (["PYTHON=/opt/python"], " --here"),
        (["WHEELS=/w"], " --wheels /w"),
        (["PYTHON=/opt/python", "WHEELS=/w"], " --wheels /w"),
    ):
        command = ["make", "--dry-run", "test-gpu", *words, "ARGS=-x"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
        python = "/opt/python" if words and "PYTHON" in words[0] else "python3"
        assert done.stdout.split() == f"{python} -m tests.gpu.run{arguments} -x".split()
