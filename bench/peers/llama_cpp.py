"""llama.cpp: built from the sources inside the pinned llama-cpp-python source package, and its server's command line.

Nothing of it is committed or imported; it runs as a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.manifest import sha256_of_file

from bench.errors import BenchError

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{VERSION}"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_PROGRAMS = ("llama-server", "llama-quantize", "llama-bench")
_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """The built programs."""

    bin: Path

    def quantize(self, source: Path, kind: str, folder: Path) -> Path:
        """``source`` requantized to ``kind`` (such as ``Q8_0``), made once. BenchError."""
        target = folder / f"{source.stem}.{kind}.gguf"
        if not target.is_file():
            partial = target.with_suffix(".partial")
            words = [str(self.bin / "llama-quantize"), "--allow-requantize", str(source), str(partial), kind]
            run(words, "llama-quantize failed")
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
    binaries = folder / SDIST / "build" / "bin"
    if all((binaries / name).is_file() for name in _PROGRAMS):
        return LlamaCpp(binaries)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{SDIST}.tar.gz"
    if not archive.is_file():
        say(f"downloading {PACKAGE} {VERSION}")
        words = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "--dest", str(folder)]
        run([sys.executable, "-m", "pip", "download", "--quiet", *words], "pip could not download llama.cpp's sources")
    if (digest := sha256_of_file(archive)) != SDIST_SHA256:
        raise BenchError(f"{archive.name} has sha256 {digest}, expected {SDIST_SHA256}; delete it and try again")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    say("building llama.cpp (several minutes)")
    source = folder / SDIST / "vendor" / "llama.cpp"
    switches = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DBUILD_SHARED_LIBS=OFF"]
    where = str(binaries.parent)
    run(["cmake", "-S", str(source), "-B", where, *switches, "-DLLAMA_BUILD_TESTS=OFF"], "cmake failed")
    jobs = str(len(os.sched_getaffinity(0)))
    run(["cmake", "--build", where, "--parallel", jobs, "--target", *_PROGRAMS], "llama.cpp did not build")
    return LlamaCpp(binaries)


def run(words: Sequence[str], problem: str) -> str:
    """Run a program to its end and return its output. BenchError with its last lines when it fails or is missing."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - callers give fixed words
    except FileNotFoundError as error:
        raise BenchError(f"{problem}: {words[0]} is not installed") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]
        raise BenchError(f"{problem}: {' / '.join(lines)}")
    return done.stdout
