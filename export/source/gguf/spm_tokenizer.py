"""SentencePiece vocabularies (pieces with scores and byte fallback) as byte-pair JSON of the ``tokenizers`` library.

SentencePiece's BPE joins the neighbours whose union has the best score; ranking every possible pair of a piece by that
score gives the same merges (the conversion that transformers' ``SentencePieceExtractor`` made standard). Knows only
the metadata handed in.
"""

from __future__ import annotations

import math
from typing import Any

from export.errors import SourceError

_SPACE = "▁"
_MAX_PIECE_LENGTH = 512
"""Characters of a piece that is put together by merges; SentencePiece's trainer makes none longer (its
``max_sentencepiece_length``). It bounds what one character of a vocabulary can cost here."""


def spm_tokenizer_json(
    name: str, metadata: dict[str, Any], tokens: list[str], added_tokens: list[dict[str, Any]]
) -> dict[str, Any]:
    """The tokenizer file's content; its special tokens' ids are checked already.

    Raises SourceError if the scores do not match the pieces, or a piece is too long.
    """
    scores = metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(_is_score(score) for score in scores):
        raise SourceError(
            f"{name}: tokenizer.ggml.scores is missing or does not hold a number for each of the {len(tokens)} tokens"
        )
    vocab = {token: index for index, token in enumerate(tokens)}
    whole = {token["content"] for token in added_tokens}
    if too_long := [token for token in tokens if len(token) > _MAX_PIECE_LENGTH and token not in whole]:
        raise SourceError(
            f"{name}: tokenizer.ggml.tokens has a piece of {len(too_long[0])} characters, at most {_MAX_PIECE_LENGTH} "
            "are possible; the file is damaged"
        )
    unknown: int = metadata.get("tokenizer.ggml.unknown_token_id") or 0
    bos: int | None = metadata.get("tokenizer.ggml.bos_token_id")
    add_bos = flag(name, metadata, "add_bos_token", default=True)
    prefix = flag(name, metadata, "add_space_prefix", default=True)
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
            "unk_token": tokens[unknown],
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
    """All pairs of pieces whose union is a piece: best score first, then the order of their parts' ids.

    Longer pieces are added tokens, which text is cut at before it is merged. So the work grows as the vocabulary does.
    """
    ranked = []
    for piece, index in vocab.items():
        for cut in range(1, len(piece) if len(piece) <= _MAX_PIECE_LENGTH else 0):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                ranked.append((-scores[index], vocab[left], vocab[right], left, right))
    return [(left, right) for *_, left, right in sorted(ranked)]


def _is_score(value: object) -> bool:
    return isinstance(value, float) and not math.isnan(value)


def flag(name: str, metadata: dict[str, Any], key: str, *, default: bool) -> bool:
    """True or false under ``tokenizer.ggml.{key}``. Raises SourceError for anything else."""
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is not None and not isinstance(value, bool):
        raise SourceError(f"{name}: tokenizer.ggml.{key} is {value!r:.200}, true or false is needed")
    return default if value is None else value


def begin_with(token: str, token_id: int) -> dict[str, Any]:
    """A post-processor that puts one special token in front, as the ``tokenizers`` library writes it."""
    begin, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [begin, text, {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [token_id], "tokens": [token]}},
    }
