"""GuideLLM: eight streamed chats, two at a time."""

from __future__ import annotations

import json
import tempfile
from itertools import chain
from pathlib import Path

from tests.clients.checks import Checks, ensure
from tests.clients.command import run_command, write_tokenizer

REQUESTS = 8

checks = Checks()


@checks.check("stream")
def _() -> None:
    folder = Path(tempfile.mkdtemp(prefix="guidellm-"))
    tokenizer = write_tokenizer(folder / "tokenizer")
    found = folder / "found.json"
    about = {
        "--backend": f"kind=openai_http,target={checks.base_url},model={checks.model}",
        "--profile": "kind=concurrent,streams=2",
        "--constraint": f"kind=max_requests,count={REQUESTS}",
        "--tokenizer": f"kind=hf_auto,model={tokenizer}",
        "--data": "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
        "--output": f"kind=json,path={found}",
    }
    run_command("guidellm", ["run", *chain.from_iterable(about.items()), "--disable-console-interactive"])
    (benchmark,) = json.loads(found.read_text(encoding="utf-8"))["benchmarks"]
    ensure(benchmark["metrics"]["request_totals"]["successful"] == REQUESTS, benchmark["metrics"]["request_totals"])
