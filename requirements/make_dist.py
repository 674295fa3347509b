"""Make what a release consists of, in dist/: wheel, sdist, an SBOM of what the wheel is installed with, and checksums.

Both archives are built twice, in two folders, time zones and orders of hashes, and the wheel from the sdist once more;
what differs by a byte is no release. ``make dist`` calls it with an environment that has hatchling, and names one that
has cyclonedx-py. Knows nothing of what is in the archives.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from requirements.vendored import add_vendored

ROOT = Path(__file__).resolve().parent.parent
# Locked beside what serving needs, to build our own wheel with; an image is without them as well (install.sh).
_ONLY_BUILD = ("editables", "hatchling", "pathspec", "pluggy", "trove-classifiers")
# What may not matter to a build: time zone, language, order of sets, permissions of new files.
_SURROUNDINGS = (
    {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
    {"TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
)
_UMASKS = (0o022, 0o077)
# Run by the Python that has CycloneDX's library. What is not valid ends it with the first error.
_VALIDATE = """
import sys
from pathlib import Path
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(Path(sys.argv[1]).read_text("utf-8"))
sys.exit(f"the SBOM is not valid: {error}" if error else 0)
"""


class DistError(Exception):
    """What was made is no release; says why."""


def run(words: Sequence[str], folder: Path = ROOT, *, umask: int = -1, **environ: str) -> str:
    """What a command prints. Raises DistError with its last lines when it fails."""
    env = os.environ | environ
    done = subprocess.run(  # noqa: S603 - callers give fixed words
        words, cwd=folder, env=env, umask=umask, check=False, capture_output=True, text=True
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise DistError(f"{' '.join(words[:4])} ... ended with {done.returncode}:\n{said}")
    return done.stdout


def epoch() -> str:
    """The time that files in the archives bear, in seconds: SOURCE_DATE_EPOCH, or else the last commit's."""
    return os.environ.get("SOURCE_DATE_EPOCH") or run(["git", "log", "-1", "--format=%ct"]).strip()


def copy_sources(folder: Path) -> Path:
    """The files that the repository knows, as they are now, in a new ``folder``."""
    for name in run(["git", "ls-files", "-z"]).split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(source: Path, output: Path, kinds: Sequence[str], surrounding: int, seconds: str) -> list[Path]:
    """Build ``kinds`` (wheel, sdist) of ``source`` into ``output``. Returns the files, by name."""
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(output)]
    words += [word for kind in kinds for word in ("-t", kind)]
    run(words, source, umask=_UMASKS[surrounding], SOURCE_DATE_EPOCH=seconds, **_SURROUNDINGS[surrounding])
    return sorted(output.iterdir())


def require_equal(made: Sequence[Path], again: Sequence[Path], what: str) -> None:
    """Raise DistError unless both have the same files with the same bytes."""
    if [path.name for path in made] != [path.name for path in again]:
        raise DistError(f"{what}: {[path.name for path in made]} and {[path.name for path in again]}")
    for one, other in zip(made, again, strict=True):
        if one.read_bytes() != other.read_bytes():
            raise DistError(f"{what}: {one.name} differs; compare {one} with {other}, which are kept")


def make_archives(work: Path, seconds: str) -> tuple[Path, Path]:
    """Sdist and wheel, proven to be the same whoever builds them where. Raises DistError."""
    kinds = ("sdist", "wheel")
    first = copy_sources(work / "a")
    second = Path(shutil.copytree(first, work / "elsewhere" / "deeper"))
    made = build(first, work / "first", kinds, 0, seconds)
    require_equal(made, build(second, work / "second", kinds, 1, seconds), "two builds")
    sdist, wheel = sorted(made, key=lambda path: path.suffix == ".whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "sdist", filter="data")
    (source,) = (work / "sdist").iterdir()
    require_equal([wheel], build(source, work / "third", ("wheel",), 1, seconds), "the wheel of the sdist")
    return sdist, wheel


def make_sbom(work: Path, wheel: Path, tool: str, seconds: str) -> Path:
    """A CycloneDX SBOM of an environment that holds the wheel and what requirements/cpu.txt locks: each package with
    version, licence and what it needs, and the scripts in the wheel. Validated against the schema. Raises DistError."""
    ours = work / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(ours)])
    python = str(ours / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    locked = ["install", "--quiet", "--no-compile", "--no-deps", "--require-hashes", "-r", "requirements/cpu.txt"]
    run([*pip, *locked])
    run([*pip, "install", "--quiet", "--no-compile", "--no-deps", str(wheel)])
    run([*pip, "uninstall", "--quiet", "--yes", *_ONLY_BUILD])
    run([*pip, "check"])
    run([str(ours / "bin" / "powertrain"), "serve", "--help"])
    sbom = work / f"{wheel.name.partition('-py3')[0]}.cdx.json"
    words = [tool, "-m", "cyclonedx_py", "environment", python, "--pyproject", "pyproject.toml", "--sv", "1.6"]
    run([*words, "--output-reproducible", "--no-validate", "-o", str(sbom)], SOURCE_DATE_EPOCH=seconds)
    add_vendored(sbom, ROOT / "api")
    run([tool, "-c", _VALIDATE, str(sbom)])
    return sbom


def write_checksums(folder: Path) -> Path:
    """SHA256SUMS of the folder's files, as sha256sum --check reads it."""
    sums = folder / "SHA256SUMS"
    files = sorted(path for path in folder.iterdir() if path != sums)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    sums.write_text("".join(lines), "utf-8")
    return sums


def main() -> None:
    """Make dist/ anew; without ``--sbom-python`` there is no SBOM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--sbom-python", help="a Python with cyclonedx-bom")
    given = parser.parse_args()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    work = Path(tempfile.mkdtemp(prefix="powertrain-dist-"))
    try:
        seconds = epoch()
        sdist, wheel = make_archives(work, seconds)
        made = [sdist, wheel]
        if given.sbom_python:
            made.append(make_sbom(work, wheel, given.sbom_python, seconds))
        if given.output.exists():
            shutil.rmtree(given.output)
        given.output.mkdir(parents=True)
        for path in made:
            shutil.copy(path, given.output)
        write_checksums(given.output)
    except DistError as error:
        sys.exit(f"no release: {error}")
    shutil.rmtree(work)
    print(f"powertrain {version}, SOURCE_DATE_EPOCH={seconds}, each archive built twice and the wheel from the sdist:")
    print((given.output / "SHA256SUMS").read_text("utf-8"), end="")


if __name__ == "__main__":
    main()
