"""Which room may import what, and what an installed powertrain owns."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "export": {
        "export",
        "runtime.chat_template",
        "runtime.engine_sidecar",
        "runtime.errors",
        "runtime.gpu",
        "runtime.graph_io",
        "runtime.graph_profiles",
        "runtime.kv_budget",
        "runtime.manifest",
    },
    "runtime": {"runtime"},
    "api": {"api", "runtime"},
    "bench": {"bench", "runtime"},
}
HEAVY = {"onnx": {"export"}, "gguf": {"export"}, "safetensors": {"export"}, "litestar": {"api"}}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if is_package else {node.module}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_in_one_direction(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for name in imports(path):
            if name.split(".")[0] in ROOMS:
                allowed = any(name == edge or name.startswith(edge + ".") for edge in ROOMS[room])
                assert allowed, f"{path.relative_to(ROOT)} imports {name}"
            allowed_rooms = HEAVY.get(name.split(".")[0])
            assert allowed_rooms is None or room in allowed_rooms, f"{path.relative_to(ROOT)} imports {name}"


def test_the_environment_is_read_in_one_place() -> None:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.relative_to(ROOT).as_posix() != "api/settings.py":
                text = path.read_text(encoding="utf-8")
                assert "os.environ" not in text, path
                assert "getenv" not in text, path


def test_every_module_says_what_it_owns() -> None:
    for path in [ROOT / "powertrain.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_wheel_holds_exactly_our_names(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("powertrain-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*ROOMS, "powertrain.py"}


def test_no_other_distribution_owns_our_names() -> None:
    owners = packages_distributions()
    for name in [*ROOMS, "powertrain"]:
        assert set(owners.get(name, [])) <= {"powertrain"}, name
