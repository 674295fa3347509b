"""SentencePiece vocabularies (pieces with scores and byte fallback) as byte-pair JSON of the ``tokenizers`` library.

SentencePiece's BPE joins the neighbours whose union has the best score; ranking every possible pair of a piece by that
score gives the same merges (the conversion that transformers' ``SentencePieceExtractor`` made standard). Knows only
the metadata handed in.
"""

from __future__ import annotations

from typing import Any

from export.errors import SourceError

_SPACE = "▁"


def spm_tokenizer_json(
    name: str, metadata: dict[str, Any], tokens: list[str], added_tokens: list[dict[str, Any]]
) -> dict[str, Any]:
    """The tokenizer file's content. Raises SourceError if the scores do not match the pieces."""
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(isinstance(s, float) for s in scores):
        raise SourceError(
            f"{name}: tokenizer.ggml.scores is missing or does not hold a number for each of the {len(tokens)} tokens"
        )
    vocab = {token: index for index, token in enumerate(tokens)}
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    add_bos = (
        metadata.get("tokenizer.ggml.add_bos_token", True) is True and isinstance(bos, int) and 0 <= bos < len(tokens)
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    prepend = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    replace_spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens,
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace_spaces]},
        "pre_tokenizer": None,
        "post_processor": begin_with(tokens[bos], bos) if add_bos and bos is not None else None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": tokens[unknown] if isinstance(unknown, int) and 0 <= unknown < len(tokens) else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(vocab, scores),
        },
    }


def _merges(vocab: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """All pairs of pieces whose union is a piece: best score first, then the order of their parts' ids."""
    ranked = []
    for piece, index in vocab.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[index], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def begin_with(token: str, token_id: int) -> dict[str, Any]:
    """A post-processor that puts one special token in front, as the ``tokenizers`` library writes it."""
    begin, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
