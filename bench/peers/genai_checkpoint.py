"""Unpacks a GGUF file into a float32 Hugging Face folder. Runs in the peer's environment, as a script: GGUF FOLDER.

A model that transformers loaded from GGUF refuses to be saved, so its weights move into a plain one first. Loading is
strict: a tensor that is missing or left over is an error.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    """Read, and write the folder."""
    source, target = Path(sys.argv[1]).resolve(), sys.argv[2]
    transformers = importlib.import_module("transformers")
    torch = importlib.import_module("torch")
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    plain = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(**where), dtype=torch.float32
    )
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(**where).save_pretrained(target)


if __name__ == "__main__":
    main()
