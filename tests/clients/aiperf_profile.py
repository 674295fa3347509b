"""AIPerf: eight streamed chats, two at a time."""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from pathlib import Path

from tests.clients.checks import Checks, ensure
from tests.clients.command import run_command, write_tokenizer

REQUESTS = 8

checks = Checks()


def profile(*more: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="aiperf-"))
    about = {
        "--model": checks.model,
        "--url": checks.base_url,
        "--endpoint-type": "chat",
        "--tokenizer": str(write_tokenizer(folder / "tokenizer")),
        "--request-count": str(REQUESTS),
        "--concurrency": "2",
        "--synthetic-input-tokens-mean": "64",
        "--output-tokens-mean": "16",
        "--ui": "none",
        "--output-artifact-dir": str(folder),
    }
    run_command(
        "aiperf", ["profile", *chain.from_iterable(about.items()), *more], offline=False
    )  # offline it takes the path for a name
    found = json.loads((folder / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    ensure(found["request_count"]["avg"] == REQUESTS and not found.get("error_summary"), found.get("error_summary"))


@checks.check("plain")
def _() -> None:
    profile()


@checks.check("stream")
def _() -> None:
    profile("--streaming")
