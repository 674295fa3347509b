"""Makes logits.npz: float32 logits [24, vocab] by transformers of every checkpoint in tests/export/tiny_models.py.

Run it where transformers and torch are installed (``pip install 'powertrain[optimum]'``), from the project's folder:
    python tests/golden/make_golden.py
Nothing else needs those packages; the tests read the committed file.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "export"))


def main() -> None:
    """Write logits.npz beside this file."""
    tiny = importlib.import_module("tiny_models")
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    logits = {}
    for name in tiny.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            tiny.write_tiny_folder(Path(folder), name)
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                folder, attn_implementation="eager", torch_dtype=torch.float32, output_loading_info=True
            )
        problems = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
        if problems:
            raise SystemExit(f"{name}: the tiny checkpoint does not fit transformers' names: {problems}")
        with torch.no_grad():
            logits[name] = model(torch.from_numpy(tiny.tiny_input_ids())[None]).logits[0].numpy()
        print(f"{name:14} {np.abs(logits[name]).max():.3f} largest logit")
    np.savez_compressed(HERE / "logits.npz", **logits)


if __name__ == "__main__":
    main()
