"""The clients that are command lines rather than libraries: run one, and look at the files that it wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.checks import Failed

TIMEOUT_S = 300
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
PACKAGE = Path(__file__).resolve().parents[2] / "models" / "smollm2-135m-instruct"


def run_command(name: str, arguments: list[str], *, offline: bool = True) -> str:
    """Run a command of this environment and return all that it printed. ``offline`` keeps it from asking a hub."""
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    environment = {**os.environ, **(OFFLINE if offline else {})}
    ended = subprocess.run(
        command,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
    )
    if ended.returncode:
        raise Failed(f"{name} ended with {ended.returncode}: {ended.stdout[-1500:]}")
    return ended.stdout


def write_tokenizer(folder: Path) -> Path:
    """The default package's tokenizer as a folder that ``transformers`` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PACKAGE / "tokenizer.json", folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
