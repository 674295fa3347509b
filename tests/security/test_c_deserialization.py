"""Class C, deserialization: nothing here reads a format that can carry code, and no shell is ever started.

Repeats the causes of CVE-2024-50050 and its relatives (pickles over ZMQ), CVE-2025-23254 (TensorRT-LLM), CVE-2026-3989
(SGLang: a crash dump that was a pickle). ruff bans the imports too; a ``noqa`` does not get around these tests.
"""

from __future__ import annotations

import ast
import tomllib

import pytest

from tests.paths import ROOT
from tests.security.source_code import ROOMS, called, calls, imports_any, keyword, trees

CODE_CARRIERS = frozenset(
    {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "zmq",
     "mpi4py", "multiprocessing.connection", "multiprocessing.managers", "xmlrpc", "code", "codeop", "yaml"}
)  # fmt: skip
RUNS_TEXT = frozenset({"eval", "exec", "compile", "builtins.eval", "builtins.exec"})
RUNS_A_SHELL = frozenset(
    {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "subprocess.getoutput",
     "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "pty.spawn"}
)  # fmt: skip


def faults(tree: ast.AST) -> list[str]:
    """What a module does that it may not."""
    found = [f"imports {name}" for name in sorted(imports_any(tree, CODE_CARRIERS))]
    for call in calls(tree):
        name = called(call)
        if name in RUNS_TEXT or name in RUNS_A_SHELL:
            found.append(f"calls {name}")
        if keyword(call, "shell") not in {None, False}:
            found.append("starts a shell")
        if keyword(call, "allow_pickle") not in {None, False} or name.endswith(("torch.load", "from_pickle")):
            found.append("unpickles")
    return found


def test_nothing_reads_code_and_nothing_starts_a_shell() -> None:
    assert [f"{path} {fault}" for path, tree in trees() for fault in faults(tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import importlib\nimportlib.import_module('marshal')",
        "__import__('dill')",
        "from multiprocessing.connection import Client",
        "eval(x)",
        "import os\nos.system(x)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import subprocess\nsubprocess.run(x, shell=y)",
        "import numpy\nnumpy.load(x, allow_pickle=True)",
        "import torch\ntorch.load(x)",
    ],
)
def test_the_check_sees_each_fault(text: str) -> None:
    assert faults(ast.parse(text))


def test_every_room_bans_the_imports_in_its_linter_too() -> None:
    tables = [tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]]
    tables += [tomllib.loads((ROOT / room / "ruff.toml").read_text("utf-8")) for room in ROOMS]
    for table in tables:
        banned = table["lint"]["flake8-tidy-imports"]["banned-api"]
        assert {"pickle", "marshal", "shelve", "os.system", "os.popen", "torch", "transformers"} <= set(banned)
