"""The rooms' source as syntax trees, for tests of what it may not contain where a linter's rule does not reach."""

from __future__ import annotations

import ast
from functools import cache

from tests.paths import ROOT

ROOMS = ("export", "runtime", "api", "bench", "chat")


@cache
def trees(*folders: str) -> tuple[tuple[str, ast.Module], ...]:
    """Path and tree of every module below the folders; all rooms and the entry point when none is named."""
    paths = [path for folder in folders or ROOMS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = paths if folders else [ROOT / "powertrain.py", *paths]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in found)


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of what a module imports, at its top or inside a function, by statement or by ``import_module``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return names


def imports_any(tree: ast.AST, banned: frozenset[str]) -> set[str]:
    """The banned packages or modules that a module imports, or something inside of."""
    return {name for name in imported(tree) for ban in banned if name == ban or name.startswith(f"{ban}.")}


@cache
def calls(tree: ast.AST) -> tuple[ast.Call, ...]:
    """Every call."""
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    """The dotted name that is called, such as ``os.system``; of a computed object only what follows it."""
    parts: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.insert(0, node.id)
    return ".".join(parts)


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a call's keyword; None when it is absent, the node when it is computed."""
    for item in call.keywords:
        if item.arg == name:
            return item.value.value if isinstance(item.value, ast.Constant) else item.value
    return None
