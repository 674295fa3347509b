"""Makes spm.json: a small SentencePiece vocabulary as GGUF states it, and SentencePiece's own ids for some texts.

Run it where ``sentencepiece`` is installed, from the project's folder:
    python tests/golden/make_spm.py
"""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEXTS = (
    "The ferry left the island an hour late.",
    "  two  spaces,\ttabs\nand lines\n\n",
    "year 2024 costs 1,234.50",
    "Straße, élan, señor, 東京 and 🚲🙂",
    "def f(x):\n    return x ** 2  # code",
    "",
    " ",
)


def main() -> None:
    """Train on the built-in texts and write spm.json beside this file."""
    library = importlib.import_module("sentencepiece")
    texts = HERE.parent.parent / "export" / "measure" / "texts"
    with tempfile.TemporaryDirectory() as folder:
        library.SentencePieceTrainer.train(
            input=[str(path) for path in sorted(texts.glob("*.txt"))],
            model_prefix=f"{folder}/m",
            model_type="bpe",
            vocab_size=700,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.99,
            minloglevel=2,
        )
        model = library.SentencePieceProcessor(model_file=f"{folder}/m.model")
    ids = range(model.get_piece_size())
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in ids]
    content = {
        "tokens": [model.id_to_piece(i) for i in ids],
        "scores": [model.get_score(i) for i in ids],
        "token_type": kinds,
        "encoded": {text: model.encode(text) for text in TEXTS},
    }
    (HERE / "spm.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
