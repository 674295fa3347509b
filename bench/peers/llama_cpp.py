"""llama.cpp: built from the sources inside the pinned llama-cpp-python source package, and its server's command line.

Nothing of it is committed or imported; it runs as a process of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.package.package_file import sha256_of_file

from bench.errors import BenchError
from bench.peers.making import is_made, mark_made, run, unmark

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{VERSION}"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_PROGRAMS = ("llama-server", "llama-quantize")
_SWITCHES = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
)
_RECIPE = "\n".join((SDIST_SHA256, *_SWITCHES, *_PROGRAMS))
_TOOLS = (("cmake",), ("make", "ninja"), ("c++", "g++", "clang++"))


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """The built programs."""

    bin: Path

    def quantize(self, source: Path, kind: str, folder: Path) -> Path:
        """``source`` requantized to ``kind`` (such as ``Q8_0``), made once for each content of it. BenchError."""
        target = folder / f"{sha256_of_file(source)[:16]}.{kind}.gguf"
        if not target.is_file():
            partial = target.with_suffix(".partial")
            words = [str(self.bin / "llama-quantize"), "--allow-requantize", str(source), str(partial), kind]
            run(words, f"llama-quantize could not make {kind}")
            partial.replace(target)
        return target

    def server(self, model: Path, alias: str, port: int, *, slots: int, slot_tokens: int, threads: int) -> list[str]:
        """Command of its HTTP server: ``slots`` sequences of ``slot_tokens`` each, on ``threads`` threads.

        ``alias`` is the model name that it answers to.
        """
        sizes = ["-np", str(slots), "-c", str(slots * slot_tokens), "-t", str(threads), "-tb", str(threads)]
        place = ["--host", "127.0.0.1", "--port", str(port), "--alias", alias]
        return [str(self.bin / "llama-server"), "-m", str(model), *sizes, *place, "--no-webui"]


def build(folder: Path, say: Callable[[str], None]) -> LlamaCpp:
    """Download, check and build into ``folder``; does nothing where that was done before. BenchError."""
    home = folder / SDIST
    llama = LlamaCpp(home / "build" / "bin")
    if is_made(home, _RECIPE):
        return llama
    missing = [" or ".join(names) for names in _TOOLS if not any(shutil.which(name) for name in names)]
    if missing:
        raise BenchError(f"llama.cpp is built here from its sources, which needs {', '.join(missing)}; install that")
    folder.mkdir(parents=True, exist_ok=True)
    archive = _archive(folder, say)
    unmark(home)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    say("building llama.cpp (several minutes)")
    source, where = str(home / "vendor" / "llama.cpp"), str(home / "build")
    run(["cmake", "-S", source, "-B", where, *_SWITCHES], "cmake failed")
    jobs = str(len(os.sched_getaffinity(0)))
    run(["cmake", "--build", where, "--parallel", jobs, "--target", *_PROGRAMS], "llama.cpp did not build")
    mark_made(home, _RECIPE)
    return llama


def _archive(folder: Path, say: Callable[[str], None]) -> Path:
    """The source package, downloaded once and checked always."""
    archive = folder / f"{SDIST}.tar.gz"
    if not archive.is_file():
        say(f"downloading {PACKAGE} {VERSION}")
        words = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "--dest", str(folder)]
        run([sys.executable, "-m", "pip", "download", "--quiet", *words], "pip could not download llama.cpp's sources")
    if (digest := sha256_of_file(archive)) != SDIST_SHA256:
        raise BenchError(f"{archive.name} has sha256 {digest}, expected {SDIST_SHA256}; delete it and try again")
    return archive
