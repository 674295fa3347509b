"""What a step's result depends on, as words by name, and their digest: the step's key.

The code that matters is everything that the step's first module imports, directly or not, from this program, with the
data files beside it. Knows no step.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import msgspec

CODE = Path(__file__).resolve().parents[2]
"""The folder that holds the rooms."""

_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<of>(?:export|runtime|bench)[\w.]*)[ \t]+import[ \t]+(?P<names>\([^)]*\)|.*)"
    r"|import[ \t]+(?P<plain>(?:export|runtime|bench)[\w.]*))",
    re.MULTILINE,
)
_ROOMS = ("export", "runtime", "bench")
_NO_DATA = {".py", ".pyc", ".toml", ".md"}
_NO_PART = {
    "export.errors",
    "export.folder_lock",
    "export.package.replace",
    "export.plan.progress",
    "export.plan.targets",
    "export.progress",
    "export.provenance.files",
    "export.source.fetch",
    "export.source.hub",
    "export.source.pip_command",
    "runtime.errors",
}
"""Modules that decide no byte: what they bring is known by its digest, or they say, wait and rename."""


def step_key(kind: str, inputs: Mapping[str, str]) -> str:
    """sha256 of a step's kind and of all that its result depends on."""
    return hashlib.sha256(msgspec.json.encode([kind, sorted(inputs.items())])).hexdigest()


def differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What sets two steps' inputs apart, one phrase each, in the order of ``new``; digests are not spelled out."""
    names = [*new, *(name for name in old if name not in new)]
    return [_difference(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _difference(name: str, old: str | None, new: str | None) -> str:
    if max(len(old or ""), len(new or "")) > 24:
        return f"{name} changed"
    return f"{name} is {new or 'none'}, was {old or 'none'}"


@cache
def versions(*distributions: str) -> str:
    """``onnx 1.21.0, numpy 2.2.0``; what is not installed has the version none."""
    return ", ".join(f"{name} {_version(name)}" for name in distributions)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


@cache
def code_digest(*modules: str, root: Path = CODE) -> str:
    """sha256 over the modules, what they import from the rooms below ``root``, and the data files beside those."""
    files = code_files(*modules, root=root)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def code_files(*modules: str, root: Path = CODE) -> list[Path]:
    """The files that ``code_digest`` reads, sorted."""
    files = _modules(root)
    seen: set[str] = set()
    waiting = [name for name in modules if name in files]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [found for found in _imported(files[name]) if found in files]
    code = {files[name] for name in seen}
    data = {file for folder in {path.parent for path in code} for file in _data_files(folder)}
    return sorted(code | data)


@cache
def _imported(path: Path) -> tuple[str, ...]:
    names = []
    for found in _IMPORT.finditer(path.read_text(encoding="utf-8")):
        module = found["of"] or found["plain"]
        names += [module, *(f"{module}.{word}" for word in re.findall(r"\w+", found["names"] or ""))]
    return tuple(name for name in names if name not in _NO_PART)


@cache
def _modules(root: Path) -> dict[str, Path]:
    """Every module of the rooms below ``root``, and every folder's ``__init__`` by the folder's name."""
    found = {}
    for room in _ROOMS:
        for folder, folders, names in os.walk(root / room):
            folders[:] = [name for name in folders if name.isidentifier() and name != "__pycache__"]
            dotted = ".".join(Path(folder).relative_to(root).parts)
            for name in names:
                if name.endswith(".py"):
                    module = f"{dotted}.{name.removesuffix('.py')}"
                    found[module.removesuffix(".__init__")] = Path(folder, name)
    return found


def _data_files(folder: Path) -> list[Path]:
    """Files of a code folder that are no code, and those in folders below it that hold no code."""
    below = [one for one in folder.iterdir() if one.is_dir() and one.name != "__pycache__" and not _has_code(one)]
    files = [file for one in (folder, *below) for file in one.iterdir() if file.is_file()]
    return [file for file in files if file.suffix not in _NO_DATA]


def _has_code(folder: Path) -> bool:
    return any(folder.glob("*.py"))
