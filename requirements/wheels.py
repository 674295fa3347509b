"""What is recorded of the wheels that the extras for GPUs ask for, and whether all that they need is among them.

``wheels.json`` is made by ``record_wheels.py`` from the wheels themselves: versions, requirements, and what the headers
of their libraries (ELF) say. This module resolves an extra against it without a network, and finds for every needed
library who provides it and by which way the system's loader gets there. Downloads nothing.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).resolve().parent
RECORD = FOLDER / "wheels.json"

_ENVIRONMENT = {
    "extra": "",
    "python_version": "3.11",
    "python_full_version": "3.11.7",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
"""The environment that the wheels were recorded for."""
_DRIVER = {"libcuda.so.1", "libnvidia-ml.so.1"}
_SYSTEM = re.compile(r"(ld-linux-x86-64|lib(c|m|dl|rt|pthread|util|stdc\+\+|gcc_s|z))\.so\.\d+")
"""glibc, the compilers' runtimes and zlib: Ubuntu's base system has them."""
CUDA_FOLDERS = ("nvidia/cu13/lib", "nvidia/cudnn/lib")
"""Where NVIDIA's wheels for CUDA 13 hold libraries, and where ``cuda-pathfinder`` looks for them."""


@dataclass(frozen=True, slots=True)
class Library:
    """A shared library in a wheel. ``needed`` is None where its header could not be read."""

    path: str
    soname: str
    needed: tuple[str, ...] | None
    search: tuple[str, ...]
    opens: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Its folder in site-packages."""
        return posixpath.dirname(self.path)

    @property
    def name(self) -> str:
        """What others need it by."""
        return self.soname or posixpath.basename(self.path)

    def searches(self) -> set[str]:
        """The folders that the loader searches for what this library needs (RUNPATH, or RPATH)."""
        parts = [part for entry in self.search for part in entry.split(":")]
        return {
            posixpath.normpath(part.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", self.folder))
            for part in parts
            if "ORIGIN" in part
        }


@dataclass(frozen=True, slots=True)
class Wheel:
    """One distribution. ``preloads`` are files that its Python opens when it is imported or told to; ``unread`` says
    why only names are known of its libraries."""

    name: str
    version: str
    requires: tuple[str, ...]
    modules: tuple[str, ...]
    preloads: tuple[str, ...]
    unread: str
    libraries: tuple[Library, ...]


def load_record(path: Path = RECORD) -> list[Wheel]:
    """Every wheel that was looked at; of some there are two versions."""
    return [_wheel(one) for one in json.loads(path.read_text(encoding="utf-8"))["wheels"]]


def _wheel(one: Mapping[str, Any]) -> Wheel:
    libraries = tuple(
        Library(
            path=path,
            soname=found["soname"],
            needed=None if found["needed"] is None else tuple(found["needed"]),
            search=tuple(found["search"]),
            opens=tuple(found["opens"]),
        )
        for path, found in one["libraries"].items()
    )
    listed = {key: tuple(one[key]) for key in ("requires", "modules", "preloads")}
    return Wheel(name=one["name"], version=one["version"], unread=one["unread"], libraries=libraries, **listed)


def resolve(requirements: Iterable[str], record: Iterable[Wheel]) -> tuple[list[Wheel], list[str]]:
    """The wheels that ``requirements`` lead to, and what the record cannot satisfy: a line each."""
    record = list(record)
    found: dict[str, Wheel] = {}
    problems: list[str] = []
    waiting = [(Requirement(text), "the extra") for text in requirements]
    while waiting:
        wanted, by = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        versions = [found[name]] if name in found else [wheel for wheel in record if wheel.name == name]
        fitting = [wheel for wheel in versions if wanted.specifier.contains(wheel.version)]
        if not fitting:
            there = ", ".join(wheel.version for wheel in versions) or "none"
            problems.append(f"{by} requires {wanted}, of which the record has {there}")
        elif name not in found:
            found[name] = fitting[0]
            inner = [Requirement(text) for text in fitting[0].requires]
            waiting += [(one, name) for one in inner if one.marker is None or one.marker.evaluate(_ENVIRONMENT)]
    return list(found.values()), problems


def unmet(wheels: Iterable[Wheel], opened: Iterable[str], ignored: Iterable[str] = ()) -> list[str]:
    """One line for each library that something in ``wheels`` needs or opens by name and would not be found.

    ``opened`` are names of libraries that are open before, wherever ``cuda-pathfinder`` found them. Files named in
    ``ignored`` are never opened.
    """
    wheels, ignored = list(wheels), set(ignored)
    libraries = [library for wheel in wheels for library in wheel.libraries]
    providers = {library.name: library for library in libraries}
    is_open = {
        name for name in opened if name in providers and providers[name].path in {f"{at}/{name}" for at in CUDA_FOLDERS}
    }
    preloaded = {path for wheel in wheels for path in wheel.preloads}
    is_open |= {library.name for library in libraries if library.path in preloaded}
    lines = [f"{name} is opened first, and no wheel has it" for name in opened if name not in is_open]
    for library in libraries:
        if posixpath.basename(library.path) in ignored:
            continue
        for name in (*(library.needed or ()), *library.opens):
            why = _not_found(name, library, providers, is_open)
            if why:
                lines.append(f"{library.path} needs {name}: {why}")
    return lines


def _not_found(name: str, library: Library, providers: Mapping[str, Library], is_open: set[str]) -> str:
    if name in _DRIVER or _SYSTEM.fullmatch(name) or name in is_open:
        return ""
    provider = providers.get(name)
    if provider is None:
        return "no wheel has it"
    by_path = posixpath.basename(provider.path) == name and provider.folder in library.searches()
    return "" if by_path else f"{provider.path} has it, where nobody looks"
