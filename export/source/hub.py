"""Fetches a repository from the Hugging Face hub through its own client: weights, JSON and templates, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from export.errors import SourceError
from export.progress import Reporter

ALLOWED_FILES = ("*.safetensors", "*.json", "*.jinja", "LICENSE*")
"""No pickles (``*.bin``, ``*.pt``) and no code (``*.py``) is ever asked for."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def is_repo_id(text: str) -> bool:
    """True for ``owner/name``."""
    return _REPO.fullmatch(text) is not None


def fetch_snapshot(repo: str, revision: str, cache: Path, reporter: Reporter) -> Path:
    """Folder with the repository's files at ``revision``. Raises SourceError with the client's reason."""
    if not is_repo_id(repo):
        raise SourceError(f"{repo!r} is not a repository id of the form owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise SourceError("fetching from the hub needs its client: pip install huggingface-hub") from error
    reporter.say(f"Downloading {repo} at {revision}")
    folder = cache / "hub" / repo.replace("/", "--") / re.sub(r"[^\w.-]", "-", revision)
    try:
        snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=list(ALLOWED_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(f"the hub did not give {repo} at {revision}: {reason}") from error
    return folder


def snapshot_commit(folder: Path) -> str:
    """The commit that the hub's client noted beside what it fetched into ``folder``; empty for none, or several."""
    notes = sorted((folder / ".cache" / "huggingface" / "download").glob("**/*.metadata"))
    commits = {note.read_text(encoding="utf-8").partition("\n")[0].strip() for note in notes}
    found = commits.pop() if len(commits) == 1 else ""
    return found if _COMMIT.fullmatch(found) else ""
