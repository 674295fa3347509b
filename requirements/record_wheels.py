"""Makes ``wheels.json``: downloads the wheels that the extras for GPUs ask for, and records what their headers say.

    pip install pyelftools packaging
    python -m requirements.record_wheels [--keep FOLDER]

Versions are those of the lock files beside it. The wheels are 2 GB; with ``--keep`` they stay in a folder and are not
downloaded again. Some of TensorRT's wheels lie on an index of NVIDIA's own, and the package of their name on the
ordinary one only fetches them from there: where that cannot be reached, names alone are recorded, marked ``unread``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from requirements.audit import FOLDER, pins_of

EXTRAS = ("gpu", "tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-tensorrt-rtx")
PYTHON_TAG = "cp311"
MODULES = ("cuda.bindings.runtime", "onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx", "tensorrt", "tensorrt_rtx")
"""What ``runtime.session.gpu.libraries`` imports."""
OPENS_ITS_FOLDER = ("tensorrt_libs/", "tensorrt_rtx_libs/")
"""Packages whose ``__init__`` opens every library beside it (read in tensorrt_rtx_libs, and in NVIDIA/TensorRT's
python/packaging/libs_wheel for the other)."""
PRELOADS = {
    "onnxruntime-ep-nv-tensorrt-rtx-cu13": ("libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so", "libcudart.so")
}
"""What the plug-in's ``__init__`` opens, and the file that ``runtime.session.gpu.libraries`` opens for it."""
OPENS_UNSEEN = {"libcudnn.so.9": ("graph", "ops", "cnn", "adv", "heuristic", "engines_precompiled")}
"""cuDNN's parts, whose names it puts together; the strings of the other libraries show what they open by name."""
UNREAD = "its wheel lies on NVIDIA's own index, which could not be reached; the names are those that its bindings need"
UNREAD_LIBRARIES = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")

_NAME = re.compile(rb"lib(?:cu|nv|tensorrt)[A-Za-z_-]*\.so(?:\.\d+)+(?=\0)")
_PRELOADED = re.compile(r'\("nvidia", (?P<folder>cuda_dir|"\w+"), "lib", f?"(?P<file>lib[^"]+)"\)')
_STAND_IN = """
import pathlib, re

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    text = pathlib.Path("PKG-INFO").read_text()
    name, version = (re.search(rf"^{key}: (.*)$", text, re.M).group(1) for key in ("Name", "Version"))
    made = pathlib.Path(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(text)
    (made / "WHEEL").write_text("Wheel-Version: 1.0\\nTag: py3-none-any\\n")
    return made.name
"""
"""A build backend that builds nothing, in place of the one that fetches a wheel from another index."""


def main() -> None:
    """Download, read, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, help="a folder for the wheels")
    keep: Path | None = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wheels = [_read(archive) for archive in _all_archives(folder)]
    known = {library["soname"] or Path(path).name for one in wheels for path, library in one["libraries"].items()}
    for one in wheels:
        for library in one["libraries"].values():
            library["opens"] = [name for name in library["opens"] if name in known]
    wheels.sort(key=lambda one: (one["name"], one["version"]))
    (FOLDER / "wheels.json").write_text(_written(wheels), encoding="utf-8")


def _all_archives(folder: Path) -> Iterator[Path]:
    """The archive of each distribution that an extra leads to; what is found in one names the next."""
    pins = _pins()
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [(extra, Requirement(line)) for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        extra, wanted = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        version = next(one for one in pins[extra][name] if wanted.specifier.contains(one))
        if (name, version) in seen:
            continue
        seen.add((name, version))
        archive = _download(name, version, folder)
        yield archive
        inner = [Requirement(line) for line in _metadata(archive).get_all("Requires-Dist") or ()]
        waiting += [(extra, one) for one in inner if one.marker is None or one.marker.evaluate({"extra": ""})]


def _pins() -> dict[str, dict[str, list[str]]]:
    """Versions by extra and name, from the extra's lock file and from the one that it is installed beside."""
    found: dict[str, dict[str, list[str]]] = {}
    for extra in EXTRAS:
        beside = "gpu" if extra == "ort-tensorrt" else "cpu"
        for file in (extra, beside):
            for pin in pins_of((FOLDER / f"{file}.txt").read_text(encoding="utf-8").splitlines(), file):
                found.setdefault(extra, {}).setdefault(pin.name, []).append(pin.version)
    return found


def _download(name: str, version: str, folder: Path) -> Path:
    """The wheel, or the source archive of a distribution that has none here."""
    pattern = f"{name.replace('-', '_')}-{version}"
    if not list(folder.glob(f"{pattern}[-.]*")):
        print(f"{name} {version}", flush=True)
        way = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*way, "-d", str(folder), f"{name}=={version}"]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode != 0:  # noqa: S603
            with tempfile.TemporaryDirectory() as stand_in:
                (Path(stand_in) / "wheel_stub").mkdir()
                (Path(stand_in) / "wheel_stub" / "__init__.py").touch()
                (Path(stand_in) / "wheel_stub" / "buildapi.py").write_text(_STAND_IN, encoding="utf-8")
                there = {**os.environ, "PYTHONPATH": stand_in}
                subprocess.run([*command, "--no-build-isolation"], check=True, env=there)  # noqa: S603
    return next(folder.glob(f"{pattern}[-.]*"))


def _metadata(archive: Path) -> Any:  # noqa: ANN401 - email's Message
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            (name,) = (one for one in wheel.namelist() if one.endswith(".dist-info/METADATA"))
            return Parser().parsestr(wheel.read(name).decode())
    with tarfile.open(archive) as source:
        (member,) = (one for one in source.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", one.name))
        stream = source.extractfile(member)
        return Parser().parsestr(stream.read().decode() if stream else "")


def _read(archive: Path) -> dict[str, Any]:
    """What the record holds of one distribution."""
    said = _metadata(archive)
    name = canonicalize_name(said["Name"])
    made: dict[str, Any] = {
        "name": name,
        "version": said["Version"],
        "requires": [line for line in said.get_all("Requires-Dist") or () if "extra ==" not in line],
        "modules": [],
        "preloads": [],
        "unread": "",
        "libraries": {},
    }
    if archive.suffix != ".whl":
        return _read_source(archive, made)
    with zipfile.ZipFile(archive) as wheel:
        names = wheel.namelist()
        made["modules"] = [one for one in MODULES if any(_is_module(one, path) for path in names)]
        for path in names:
            if ".so" in path.rpartition("/")[2]:
                made["libraries"] |= _library(path, wheel)
        made["preloads"] = _preloads(name, made["libraries"], wheel)
    return made


def _read_source(archive: Path, made: dict[str, Any]) -> dict[str, Any]:
    """A distribution without a wheel here: Python alone, or a name that stands for a wheel elsewhere."""
    with tarfile.open(archive) as source:
        names = [one.name.partition("/")[2] for one in source.getmembers()]
    made["modules"] = [one for one in MODULES if any(_is_module(one, path) for path in names)]
    if made["name"].endswith("-libs"):
        made["unread"] = UNREAD
        major = made["version"].partition(".")[0]
        for file in UNREAD_LIBRARIES:
            nothing: dict[str, Any] = {"soname": f"{file}.{major}", "needed": None, "search": [], "opens": []}
            made["libraries"][f"tensorrt_libs/{file}.{major}"] = nothing
        made["preloads"] = sorted(made["libraries"])
    return made


def _is_module(module: str, path: str) -> bool:
    start = module.replace(".", "/")
    return path in {f"{start}.py", f"{start}/__init__.py"} or re.fullmatch(rf"{start}\.[\w-]+\.so", path) is not None


def _library(path: str, wheel: zipfile.ZipFile) -> dict[str, Any]:
    """The header of a library; nothing for a file that only looks like one."""
    with wheel.open(path) as stream, tempfile.TemporaryFile() as whole:
        data = stream.read()
        whole.write(data)
        try:
            section = ELFFile(whole).get_section_by_name(".dynamic")
        except ELFError:
            return {}
        tags: dict[str, list[str]] = {}
        for tag in section.iter_tags() if section else ():
            key = tag.entry.d_tag
            if key in {"DT_NEEDED", "DT_SONAME", "DT_RUNPATH", "DT_RPATH"}:
                tags.setdefault(key, []).append(getattr(tag, key.removeprefix("DT_").lower()))
    needed, (soname,) = tags.get("DT_NEEDED", []), tags.get("DT_SONAME", [""])
    opens = {name.decode() for name in _NAME.findall(data)} - {*needed, soname, path.rpartition("/")[2]}
    opens |= {f"libcudnn_{part}.so.9" for part in OPENS_UNSEEN.get(soname, ())}
    search = tags.get("DT_RUNPATH") or tags.get("DT_RPATH", [])
    return {path: {"soname": soname, "needed": needed, "search": search, "opens": sorted(opens)}}


def _preloads(name: str, libraries: dict[str, Any], wheel: zipfile.ZipFile) -> list[str]:
    """The files that the wheel's Python opens."""
    found = [path for path in libraries if path.startswith(OPENS_ITS_FOLDER)]
    found += [path for path in libraries if path.rpartition("/")[2].startswith(PRELOADS.get(name, ("/",)))]
    if name == "onnxruntime-gpu":
        text = wheel.read("onnxruntime/__init__.py").decode()
        for match in _PRELOADED.finditer(text):
            folder = "cu13" if match["folder"] == "cuda_dir" else match["folder"].strip('"')
            file = match["file"].format(cuda_major_version=13, cufft_version=12)
            found.append(f"nvidia/{folder}/lib/{file}")
    return sorted(found)


def _written(wheels: list[dict[str, Any]]) -> str:
    """JSON with a line for each library."""
    lines = ["{", f' "python": "{PYTHON_TAG}", "platform": "linux x86_64",', ' "wheels": [']
    for one in wheels:
        head = {key: one[key] for key in ("name", "version", "requires", "modules", "preloads", "unread")}
        libraries = [f"   {json.dumps(path)}: {json.dumps(found)}" for path, found in sorted(one["libraries"].items())]
        body = "{\n" + ",\n".join(libraries) + "\n  }" if libraries else "{}"
        lines.append(f'  {json.dumps(head)[:-1]}, "libraries": {body}}}' + ("," if one is not wheels[-1] else ""))
    return "\n".join([*lines, " ]", "}"]) + "\n"


if __name__ == "__main__":
    main()
