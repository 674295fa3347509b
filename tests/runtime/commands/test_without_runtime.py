"""An installation without ONNX Runtime: every command answers, and what needs it names the line that installs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from export.errors import SourceError
from export.source import pip_command
from runtime import install
from tests.paths import ROOT

PROGRAM = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] == "onnxruntime":
            return None
        return PathFinder.find_spec(name, path, target)

sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Without]
from click.testing import CliRunner
import powertrain

for words in sys.argv[1:]:
    result = CliRunner().invoke(powertrain.main, words.split())
    print(words, "->", result.exit_code, "Traceback" in result.output, " ".join(result.output.split()))
"""


def test_every_command_answers(tmp_path: object) -> None:
    words = ["serve smollm2-135m-instruct", f"export smollm2-135m-instruct -o {tmp_path}/x", "doctor", "bench --help"]
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    serve, export, doctor, listing = done.stdout.splitlines()
    for line in (serve, export):
        assert "-> 1 False powertrain: this needs ONNX Runtime, which is not installed: " in line
        assert "install" in line
        assert "onnxruntime" in line.partition("installed: ")[2]
    assert "problem cpu:" in doctor
    assert "ONNX Runtime is not installed, so nothing runs ->" in doctor
    assert "-> 0 False" in listing


def test_the_line_fits_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    requires = [
        "numpy>=2",
        "onnxruntime<2,>=1.30; extra == 'cpu'",
        'a; extra == "tools"',
        "b>1; (x) and extra == 'tools'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: requires)
    monkeypatch.setattr(install, "_CHECKOUT", Path("/no/pyproject.toml"))
    monkeypatch.setattr(sys, "executable", "/opt/my env/python")
    assert install.runtime_line() == "'/opt/my env/python' -m pip install 'onnxruntime<2,>=1.30'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)  # as uv makes environments
    assert install.install_line("tools", "c") == "uv pip install --python '/opt/my env/python' a 'b>1'"


def test_a_gpus_line_names_every_wheel_and_removes_what_lies_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """From this checkout's pyproject.toml. Two distributions of onnxruntime overwrite each other's files."""
    monkeypatch.setattr(sys, "executable", "py")
    for there, removed in (
        ({"onnxruntime"}, "py -m pip uninstall -y onnxruntime && "),
        ({"onnxruntime", "onnxruntime-gpu"}, "py -m pip uninstall -y onnxruntime onnxruntime-gpu && "),
        ({"onnxruntime-gpu"}, ""),
        (set[str](), ""),
    ):
        monkeypatch.setattr(install, "_is_installed", there.__contains__)
        assert install.backend_line("gpu") == (
            f"{removed}py -m pip install 'onnxruntime-gpu>=1.30,<2' 'cuda-bindings>=13.0,<14' "
            "'nvidia-cublas>=13.0,<14' 'nvidia-cuda-nvrtc>=13.0,<14' 'nvidia-cuda-runtime>=13.0,<14' "
            "'nvidia-cudnn-cu13>=9.10,<10' 'nvidia-curand>=10.4,<11' 'nvidia-ml-py>=13.580'"
        )
    rtx = "py -m pip install tensorrt-rtx==1.7.1.116 'cuda-bindings>=13.0,<14' 'nvidia-ml-py>=13.580'"
    assert install.backend_line("tensorrt-rtx") == rtx  # whatever onnxruntime there is
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(install, "_is_installed", {"onnxruntime"}.__contains__)
    assert install.backend_line("gpu").startswith(
        "uv pip uninstall --python py onnxruntime && uv pip install --python py"
    )


def test_any_pip_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pip_command.pip_command()[1:] == ["-P", "-m", "pip"]
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    beneath = subprocess.run([Path(sys.executable).resolve(), "-c", "import pip"], check=False, capture_output=True)
    if beneath.returncode == 0:
        assert pip_command.pip_command() == [str(Path(sys.executable).resolve()), "-P", "-m", "pip"]
    monkeypatch.setattr(pip_command, "_beneath", list)
    python, program = pip_command.pip_command()
    assert python == sys.executable
    with zipfile.ZipFile(Path(program).parent) as wheel:
        assert "pip/__main__.py" in wheel.namelist()
    monkeypatch.setattr(pip_command, "_bundled_wheels", list)
    monkeypatch.setattr("shutil.which", {"pip": "/usr/bin/pip"}.get)
    assert pip_command.pip_command() == ["/usr/bin/pip"]
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(SourceError, match="needs pip, and neither this environment nor Python itself"):
        pip_command.pip_command()
