"""Fetches the chat templates that models are published with: llama.cpp's collection, inside a pinned source package.

The templates belong to their models' authors and are not committed. Only they are kept, in the models' cache.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from bench.peers.llama_cpp import PACKAGE, SDIST, SDIST_SHA256, VERSION
from runtime.package.package_file import sha256_of_file

_FOLDER = f"{SDIST}/vendor/llama.cpp/models/templates/"
_DOWNLOAD_S = 90


class TemplatesUnavailableError(Exception):
    """The package index is out of reach."""


def fetch_templates(cache: Path) -> Path:
    """The folder with the templates, fetched once. Raises TemplatesUnavailableError, or ValueError for a wrong archive.

    pip asks an unpacked source package for its metadata but builds nothing of it.
    """
    folder = cache / f"chat_templates-{SDIST_SHA256[:12]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        archive = _download(Path(scratch))
        if (digest := sha256_of_file(archive)) != SDIST_SHA256:
            raise ValueError(f"{archive.name} has sha256 {digest}, expected {SDIST_SHA256}")
        extracted = Path(scratch) / "templates"
        extracted.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.startswith(_FOLDER) and (content := tar.extractfile(member)):
                    with (extracted / Path(member.name).name).open("wb") as target:
                        shutil.copyfileobj(content, target)
        extracted.replace(folder)
    return folder


def _download(folder: Path) -> Path:
    words = ["--no-deps", "--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "--dest", str(folder), "--retries", "1"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *words]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_S)
    except subprocess.TimeoutExpired:
        raise TemplatesUnavailableError(f"{PACKAGE} {VERSION} did not arrive within {_DOWNLOAD_S} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise TemplatesUnavailableError(f"pip could not download {PACKAGE} {VERSION}: {last}") from None
    return folder / f"{SDIST}.tar.gz"
