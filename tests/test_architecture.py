"""Which room may import what, and what an installed powertrain owns."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Collection
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.paths import ROOT

ROOMS = ("export", "runtime", "api", "bench", "chat", "fleet")
EDGES = {
    "export": "runtime",
    "export.checkpoint": "export runtime runtime.adapters runtime.package",
    "export.source": "export export.checkpoint export.source.gguf export.source.hf runtime runtime.adapters"
    " runtime.package",
    "export.source.gguf": "export export.checkpoint",
    "export.source.hf": "export export.checkpoint runtime.package",
    "export.graph": "export export.checkpoint runtime runtime.package",
    "export.graph.ort": "export export.checkpoint export.graph runtime runtime.package",
    "export.graph.trt": "export export.checkpoint export.graph runtime.package",
    "export.measure": "export export.checkpoint export.graph export.graph.ort export.graph.trt export.source"
    " runtime.adapters runtime.package runtime.session",
    "export.package": "export export.checkpoint export.graph export.graph.ort export.graph.trt export.measure"
    " export.provenance export.source export.source.hf runtime runtime.package runtime.session runtime.text"
    " runtime.text.template",
    "export.interop": "export export.checkpoint export.graph export.package export.provenance export.source"
    " export.source.hf runtime runtime.loading runtime.package runtime.session",
    "export.plan": "export export.graph.trt export.provenance runtime runtime.loading runtime.package runtime.session",
    "export.compare": "export export.checkpoint runtime runtime.package",
    "export.pipeline": "export export.checkpoint export.measure export.package export.plan export.provenance"
    " export.source export.source.gguf export.source.hf runtime runtime.adapters runtime.loading runtime.package"
    " runtime.session",
    "export.provenance": "runtime.adapters runtime.package runtime.trust",
    "export.ship": "export export.package runtime runtime.package",
    "export.commands": "export export.checkpoint export.compare export.interop export.package export.pipeline"
    " export.plan export.provenance export.ship export.source runtime runtime.commands runtime.package runtime.trust",
    "runtime": "",
    "runtime.trust": "runtime runtime.package",
    "runtime.package": "runtime",
    "runtime.adapters": "runtime runtime.package",
    "runtime.session": "runtime runtime.package",
    "runtime.session.cpu": "runtime runtime.package runtime.session",
    "runtime.session.gpu": "runtime runtime.package runtime.session",
    "runtime.session.gpu.ort": "runtime runtime.package runtime.session runtime.session.gpu",
    "runtime.session.gpu.trt": "runtime runtime.package runtime.session runtime.session.gpu",
    "runtime.sampling": "runtime runtime.package runtime.session",
    "runtime.constraint": "runtime runtime.constraint.schema runtime.sealed",
    "runtime.constraint.schema": "runtime runtime.constraint.schema.regex",
    "runtime.constraint.schema.regex": "",
    "runtime.engine": "runtime runtime.sampling runtime.session",
    "runtime.text": "runtime runtime.constraint runtime.package runtime.text.template",
    "runtime.sealed": "runtime",
    "runtime.text.reasoning": "runtime runtime.constraint runtime.text",
    "runtime.text.template": "runtime runtime.sealed",
    "runtime.commands": "runtime runtime.loading runtime.package",
    "runtime.text.tool_calls": "runtime runtime.constraint runtime.text",
    "runtime.loading": "runtime runtime.adapters runtime.package runtime.session runtime.session.cpu"
    " runtime.session.gpu runtime.session.gpu.ort runtime.session.gpu.trt",
    "api": "runtime runtime.adapters runtime.constraint runtime.package runtime.text runtime.text.reasoning"
    " runtime.text.template runtime.text.tool_calls",
    "api.request": "api runtime runtime.constraint runtime.text runtime.text.template runtime.text.tool_calls",
    "api.clients": "api runtime",
    "api.models": "api runtime",
    "api.observe": "api api.clients runtime runtime.engine",
    "api.response": "api api.observe runtime runtime.engine runtime.text",
    "api.edge": "api api.clients api.observe runtime",
    "api.pages": "",
    "api.controllers": "api api.clients api.edge api.models api.observe api.pages api.request api.response runtime"
    " runtime.constraint runtime.engine runtime.text runtime.text.reasoning runtime.text.tool_calls",
    "api.process": "api api.clients api.controllers api.edge api.models api.observe api.request api.response runtime"
    " runtime.adapters runtime.commands runtime.engine runtime.loading runtime.package runtime.session runtime.trust",
    "bench": "runtime",
    "bench.metrics": "bench",
    "bench.report": "bench bench.metrics runtime",
    "bench.http": "bench bench.metrics bench.report",
    "bench.in_process": "bench bench.metrics bench.report runtime runtime.adapters runtime.constraint runtime.engine"
    " runtime.package runtime.session runtime.session.gpu runtime.text",
    "bench.evaluation": "bench bench.report runtime runtime.engine runtime.session runtime.text",
    "bench.proof": "bench.http bench.metrics bench.report",
    "bench.peers": "bench bench.metrics bench.report runtime runtime.engine runtime.loading runtime.package",
    "bench.simulate": "bench bench.http bench.in_process bench.report fleet.routing",
    "bench.commands": "bench bench.evaluation bench.http bench.in_process bench.metrics bench.peers bench.proof"
    " bench.report bench.simulate runtime runtime.commands runtime.loading runtime.package runtime.session"
    " runtime.text",
    "fleet": "runtime",
    "fleet.plan": "api api.edge fleet fleet.relay runtime runtime.loading runtime.package",
    "fleet.process": "api api.edge api.observe fleet fleet.on_ray fleet.plan runtime runtime.commands runtime.package",
    "fleet.routing": "",
    "fleet.relay": "api api.clients api.controllers api.edge api.observe api.request api.response fleet fleet.routing"
    " runtime",
    "fleet.hosting": "api api.controllers api.edge api.process fleet.relay runtime",
    "fleet.on_ray": "api api.observe api.process fleet fleet.hosting fleet.plan fleet.relay fleet.routing runtime",
    "chat": "runtime runtime.commands",
    "chat.commands": "chat runtime runtime.commands",
}
"""Folder -> the folders it may import from besides itself. A room's name alone means the modules beside its folders."""
HEAVY = {
    "onnx": ("export.compare", "export.graph", "export.interop", "export.measure", "export.package"),
    "gguf": ("export.source.gguf",),
    "safetensors": ("export.source.hf", "runtime.adapters"),
    "onnxruntime": ("runtime.session", "runtime.loading", "export.measure"),
    "litestar": ("api", "fleet.relay"),
    "ray": ("fleet.on_ray",),
    "jinja2": ("runtime.text.template",),
    "llguidance": ("runtime.constraint",),
    "prompt_toolkit": ("chat",),
    "lm_eval": ("bench.evaluation", "bench.commands"),
    "cyclonedx": ("export.provenance",),
    "in_toto_attestation": ("export.provenance",),
    "cryptography": ("runtime.trust",),
    "securesystemslib": ("runtime.trust",),
    "fsspec": ("export.ship",),
}
"""Packages that only some folders, and what lies in them, may import."""


def modules() -> dict[str, Path]:
    """Every module of the rooms by its dotted name; a folder's ``__init__`` by the folder's."""
    files = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All of a module's syntax, in no order that matters."""
    return tuple(ast.walk(tree(path)))


def folder_of(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def imports(path: Path, known: Collection[str]) -> set[str]:
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {member if member in known else node.module for member in members}
    return names


def edges() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, at its top or inside a function."""
    known = modules()
    return {name: imports(path, known) & known.keys() - {name} for name, path in known.items()}


def test_folders_import_only_what_the_table_allows() -> None:
    known, seen = modules(), set()
    for module, targets in edges().items():
        here = folder_of(module, known[module])
        for target in targets:
            there = folder_of(target, known[target])
            seen.add((here, there))
            assert here == there or there in EDGES[here].split(), f"{module} imports {target}"
    unused = {(here, there) for here, all_there in EDGES.items() for there in all_there.split()} - seen
    assert not unused, "the table allows what nobody does"


def test_the_table_names_every_folder() -> None:
    assert set(EDGES) == {folder_of(name, path) for name, path in modules().items()}


def test_no_folder_and_no_file_imports_in_a_circle() -> None:
    assert list(TopologicalSorter(edges()).static_order())  # raises CycleError, which names the circle
    assert list(TopologicalSorter({here: there.split() for here, there in EDGES.items()}).static_order())


def test_heavy_packages_stay_where_they_belong() -> None:
    for module, path in modules().items():
        for name in imports(path, ()):
            allowed = HEAVY.get(name.split(".")[0])
            assert allowed is None or module.startswith(allowed), f"{module} imports {name}"


def test_expected_failures_are_defined_in_their_rooms_error_module() -> None:
    bases: dict[str, tuple[str, set[str]]] = {}
    for module, path in modules().items():
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                bases[f"{module}.{node.name}"] = node.name, {ast.unparse(base).split(".")[-1] for base in node.bases}
    expected = {"PowertrainError"}
    while more := {name for name, above in bases.values() if above & expected} - expected:
        expected |= more
    homes = {module.rpartition(".")[0] for module, (name, _) in bases.items() if name in expected}
    assert homes == {f"{room}.errors" for room in ROOMS}


def test_the_environment_is_read_in_one_place() -> None:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.relative_to(ROOT).as_posix() != "api/settings.py":
                text = path.read_text(encoding="utf-8")
                assert "os.environ" not in text, path
                assert "getenv" not in text, path


def test_every_module_says_what_it_owns() -> None:
    for path in [ROOT / "powertrain.py", *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]:
        assert ast.get_docstring(tree(path)), path


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
        names = set(archive.namelist())
    data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "api/pages").rglob("*") if path.is_file()}
    assert "api/pages/rapidoc/LICENSE.txt" in data
    assert {path for path in data if not path.endswith(".pyc")} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {*ROOMS, "powertrain.py", "powertrain_ray.py"}
    recipes = {f"export/recipes/{path.name}" for path in (ROOT / "models").glob("*.toml")}
    assert {name for name in names if name.startswith("export/recipes/")} == recipes != set()


def test_no_other_distribution_owns_our_names() -> None:
    owners = packages_distributions()
    for name in [*ROOMS, "powertrain", "powertrain_ray"]:
        assert set(owners.get(name, [])) <= {"powertrain"}, name
